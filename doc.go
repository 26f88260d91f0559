// Package kstage is for services that consume from and produce to Apache Kafka and must
// not lose a record.
//
// # A consumer
//
// A [Consumer] gives each record to a [Handler] and commits its offset only when it is
// finished: the handler returned nil, or the record's copy was acknowledged by a retry
// topic or the dead-letter topic, or it was skipped or dropped by an explicit choice.
//
//	consumer, err := kstage.NewConsumer(
//		kstage.HandlerFunc(charge),
//		kstage.WithBrokers("localhost:9092"),
//		kstage.WithGroup("billing"),
//		kstage.WithTopics("orders"),
//		kstage.WithWorkers(64),
//		kstage.WithRetryStages(5*time.Second, time.Minute),
//	)
//	if err != nil {
//		return err // every mistake at once, each naming its option
//	}
//	return consumer.Run(ctx) // until ctx is done: then it drains, commits, leaves
//
// The options may come from the environment: [ConsumerOptionsFromEnv].
//
// # Delivery
//
// Delivery is at least once. A record is handled again after a crash, where its offset
// was not committed yet; after a shutdown or a rebalance, where its handler outlasted the
// drain, or where a record before it was unfinished. Handlers have to bear that;
// [WithDedupe] makes it rare.
//
// # Order and concurrency
//
// Up to [WithWorkers] handlers run at once, however many partitions there are. Records
// with the same key of the same partition run one at a time and in offset order (see
// [Ordering]); a record that waits for an immediate retry holds back its key and nothing
// else. A record in a retry topic is out of the way: later ones of its key overtake it.
//
// # Failure
//
// What a handler returns decides:
//
//	nil               finished
//	any error         again here (WithImmediateRetries), then in the next stage's retry topic, then dead
//	Permanent(err)    dead at once
//	RetryAfter(err,d) the next stage that is long enough
//	Snooze(d)         again after d; nothing has failed
//	Skip(err)         finished, counted as skipped
//
// Panics and overrun [WithHandlerTimeout] are failures, too; [WithClassifier] decides for
// errors that are not marked. A dead record goes to the dead-letter topic, where
// [DecodeDeadLetter] reads it; [WithoutDLQ] says what happens where there is none.
//
// An error that is returned after the handler's context was cancelled by a shutdown, a
// revocation or a loss is none: it has no effect at all. [context.Cause] tells which it
// was: [ErrShutdown], [ErrRevoked], [ErrLost].
//
// # A producer
//
// A [Producer] tells of each record, once, what has become of it: acknowledged, refused
// (with what to grant, create or change), or not confirmed ([UnconfirmedError]).
//
//	producer, err := kstage.NewProducer(kstage.WithBrokers("localhost:9092"), kstage.WithTopic("orders"))
//	if err != nil {
//		return err
//	}
//	defer producer.Close(ctx)
//	err = producer.Publish(ctx, &kgo.Record{Key: key, Value: value})
//
// # Topics
//
// Before anything is consumed, the topics are looked at ([VerifyTopics]) or made
// ([CreateTopics]); every problem is told in one [TopologyError]. [EnsureTopics] does
// that from a deployment, [NewTopology] names what a consumer would use.
//
// # Security
//
// [WithTLS] and [WithSASL] hold for every connection of every client. Secrets are in no
// log, no error, and no printed option.
//
// # What to watch
//
// Health says what is not as it should be, with typed reasons ([HealthReason]): as a
// snapshot, asked of a broker (HealthCheck), as changes (WatchHealth), and for Kubernetes
// (LivenessHandler, ReadinessHandler). [Consumer.Stats] tells where each partition stands.
// A [MetricsCollector] hears of every event; [Counters] counts, and its counts add up.
// Logs go to [WithLogger], without values.
package kstage
