package kstage

import (
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
)

// What the client's errors mean, and what to grant where access is refused: one
// lacking permission looks like another, and a broker never says which it was.

// isFenced: another process runs with this member's instance id. The client
// would try again for ever.
func isFenced(err error) bool { return errors.Is(err, kerr.FencedInstanceID) }

func isAuthorization(err error) bool {
	return errors.Is(err, kerr.TopicAuthorizationFailed) ||
		errors.Is(err, kerr.GroupAuthorizationFailed) ||
		errors.Is(err, kerr.ClusterAuthorizationFailed) ||
		errors.Is(err, kerr.TransactionalIDAuthorizationFailed)
}

// isAuthentication: the credentials are wrong; no retry helps.
func isAuthentication(err error) bool {
	return errors.Is(err, kerr.SaslAuthenticationFailed) ||
		errors.Is(err, kerr.UnsupportedSaslMechanism) ||
		errors.Is(err, kerr.IllegalSaslState)
}

// isUnknownTopic: the topic was deleted, or its name belongs to another one by now.
func isUnknownTopic(err error) bool {
	return errors.Is(err, kerr.UnknownTopicOrPartition) ||
		errors.Is(err, kerr.UnknownTopicID) ||
		errors.Is(err, kerr.InconsistentTopicID)
}

// explain adds to an error what its reader can do about it; grant is what the
// principal needs for what was tried.
func explain(err error, grant string) error {
	switch {
	case isFenced(err):
		return fmt.Errorf("kstage: another process runs with this WithInstanceID; each needs its own: %w", err)
	case isAuthorization(err):
		return fmt.Errorf("kstage: not authorized: grant %s: %w", grant, err)
	case isAuthentication(err):
		return fmt.Errorf("kstage: the brokers refuse the credentials of WithSASL: %w", err)
	}
	return err
}

func (in *intake) grantGroup() string { return fmt.Sprintf("READ on group %q", in.feed.group) }

func grantRead(topic string) string {
	if topic == "" {
		return "READ on each consumed topic"
	}
	return fmt.Sprintf("READ on topic %q", topic)
}

func grantWrite(topic string) string { return fmt.Sprintf("WRITE on topic %q", topic) }
