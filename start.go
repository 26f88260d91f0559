package kstage

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"
)

const (
	missingLimit      = 30 * time.Second // a topic that is missing for so long ends Run
	missingPause      = time.Second      // between looks for it
	lookTimeout       = 15 * time.Second // more than the client takes to give up a dial: its reason is the better one
	defaultBatchBytes = 1_000_012        // the client's and the broker's default
	mostBatchBytes    = 64 << 20
	leastBatchBytes   = 512 // the client accepts no less
	grantLook         = "DESCRIBE and DESCRIBE_CONFIGS on the topics (and CREATE, to create them)"
)

// startBackoff paces the tries to reach a broker.
var startBackoff = Backoff{Min: 250 * time.Millisecond, Max: 5 * time.Second} //nolint:gochecknoglobals // a constant in all but type

// start waits until a broker answers and the topics are fit for use.
type start struct {
	*Consumer
	adm      topicAdmin
	silent   time.Time // since when no broker has answered
	failures int       // tries in a row that no broker answered
	missing  time.Time // since when topics have been seen to be missing; zero: none are
	seen     *sight    // the last look's
}

// prepare returns when the group may be joined, with what was seen of the topics.
func (c *Consumer) prepare(ctx context.Context, adm topicAdmin) (*sight, error) {
	s := &start{Consumer: c, adm: adm, silent: time.Now()}
	for {
		pause, err := s.try(ctx)
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case pause == 0:
			return s.seen, err
		}
		wait(ctx, pause, nil)
	}
}

// try looks once. It returns the pause before the next try; zero when that is the end.
func (s *start) try(ctx context.Context) (time.Duration, error) {
	seen, err := s.look(ctx)
	switch {
	case ctx.Err() != nil:
		return 0, ctx.Err()
	case isAuthentication(err), isAuthorization(err):
		return 0, explain(err, grantLook)
	case err != nil:
		return s.unreached(err)
	}
	s.reached()
	found := inspect(s.cfg.topology(), seen)
	if err := found.err(); err != nil {
		return s.unfit(found, err)
	}
	s.fit(seen, found)
	return 0, nil
}

func (s *start) look(ctx context.Context) (*sight, error) {
	limit := lookTimeout
	if s.cfg.startTimeout > 0 {
		limit = min(limit, max(s.left(), time.Millisecond))
	}
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	seen, err := within(limited, func() (*sight, error) {
		if err := s.adm.ping(limited); err != nil {
			return nil, err
		}
		if s.cfg.provisioning == TrustTopics {
			return &sight{}, nil
		}
		seen, err := s.adm.lookInto(limited, s.cfg.topology(), s.cfg.provisioning)
		if err == nil {
			seen.leftovers, err = s.adm.leftovers(limited, &s.cfg)
		}
		return seen, err
	})
	if why := s.handOff.trouble.last(); why != nil && errors.Is(err, context.DeadlineExceeded) {
		err = why // what kept the client from an answer says more
	}
	return seen, err
}

// left is what remains of WithStartTimeout.
func (s *start) left() time.Duration { return s.cfg.startTimeout - time.Since(s.silent) }

// unreached goes on trying. It logs the first failure of a row.
func (s *start) unreached(err error) (time.Duration, error) {
	s.failures++
	s.missing = time.Time{} // nobody has seen that they still are
	if s.board.raise(HealthReason{Kind: HealthDisconnected, Partition: -1, Err: err}) {
		s.cfg.logger.Warn("no broker answers, trying on", zap.Strings("brokers", s.cfg.brokers), zap.Error(err))
	}
	pause := startBackoff.limit(s.failures)
	if t := s.cfg.startTimeout; t > 0 {
		if s.left() <= 0 {
			return 0, fmt.Errorf("kstage: no broker answered within %v (WithStartTimeout): %w", t, err)
		}
		pause = min(pause, s.left())
	}
	return pause, nil
}

func (s *start) reached() {
	s.failures, s.silent = 0, time.Now()
	if s.board.clear(HealthDisconnected, "", -1) {
		s.cfg.logger.Info("a broker answers")
	}
}

// unfit waits for missing topics: somebody may have created them a moment ago,
// and brokers learn of it one by one. Anything else does not get better.
func (s *start) unfit(found *findings, err error) (time.Duration, error) {
	for _, r := range s.board.replace(HealthTopicMissing, missingReasons(found.missing)) {
		s.cfg.logger.Warn("a topic does not exist", zap.String("topic", r.Topic))
	}
	if s.missing.IsZero() {
		s.missing = time.Now()
	}
	if !found.onlyMissing() || time.Since(s.missing) >= missingLimit {
		return 0, err
	}
	return missingPause, nil
}

func missingReasons(topics []string) (rs []HealthReason) {
	for _, name := range topics {
		rs = append(rs, HealthReason{Kind: HealthTopicMissing, Topic: name, Partition: -1})
	}
	return rs
}

// fit ends the start: warnings are logged, and the hand-off learns what its
// targets take.
func (s *start) fit(seen *sight, found *findings) {
	s.seen = seen
	s.board.replace(HealthTopicMissing, nil)
	logWarnings(s.cfg.logger, found)
	t := s.cfg.topology()
	for _, target := range t.own() {
		s.handOff.counted(target, seen.topics[target].partitions)
		if n, ok := seen.topics[target].number("max.message.bytes"); ok {
			s.handOff.batchSize[target] = int32(min(max(n, leastBatchBytes), mostBatchBytes))
		}
	}
}

func logWarnings(log *zap.Logger, found *findings) {
	for _, p := range found.problems {
		if p.Warning {
			log.Warn("topic: "+p.What, zap.String("topic", p.Topic), zap.String("fix", p.Fix))
		}
	}
}
