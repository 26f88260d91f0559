// Package kstage consumes Apache Kafka records without losing one.
//
// A [Consumer] gives each record to a [Handler] and commits its offset only when
// it is finished: the handler returned nil, or the record's copy was acknowledged
// by a retry topic or the dead-letter topic, or it was skipped or dropped by an explicit choice.
//
//	consumer, err := kstage.NewConsumer(
//		kstage.HandlerFunc(charge),
//		kstage.WithBrokers("localhost:9092"),
//		kstage.WithGroup("billing"),
//		kstage.WithTopics("orders"),
//		kstage.WithWorkers(64),
//	)
//	if err != nil {
//		return err
//	}
//	return consumer.Run(ctx) // until ctx is done: then it drains, commits, leaves
//
// # Delivery
//
// Delivery is at least once. A record is handled again after a crash, where its
// offset was not committed yet; after a shutdown or a rebalance, where its handler
// outlasted the drain, or where a record before it was unfinished. Handlers have
// to bear that.
//
// # Order and concurrency
//
// Up to WithWorkers handlers run at once. Records with the same key of the same
// partition run one at a time and in offset order (see [Ordering]); a record that
// waits for an immediate retry holds back its key and nothing else.
//
// # Failure
//
// An error makes the handler be called again, in this process, as
// WithImmediateRetries says; then the record goes to the retry topics of
// WithRetryStages, one after the other, and is handled again when each one's delay
// has passed; then it is dead and goes to the dead-letter topic. [Permanent] makes
// it dead at once, [Skip] finishes it, [RetryAfter] and [Snooze] say when to call again. [WithoutDLQ] says
// what happens where there is no dead-letter topic. Panics are failures, too.
//
// An error that is returned after the handler's context was cancelled by a
// shutdown, a revocation or a loss is none: it has no effect at all.
//
// # What to watch
//
// [Consumer.Health] says what is not as it should be, with typed reasons;
// [Consumer.Stats] where each partition stands; a [MetricsCollector] hears of
// every event.
package kstage
