package kstage

import (
	"fmt"
	"maps"
)

// Defaults are the defaults of all options that have one, as README.md's table says them.
func Defaults() map[string]string {
	c := defaultConsumerConfig()
	none := func(zero bool) string {
		if zero {
			return "none"
		}
		return "set"
	}
	m := map[string]string{
		"WithWorkers":           fmt.Sprint(c.workers),
		"WithOrdering":          map[Ordering]string{ByKey: "`ByKey`"}[c.ordering],
		"WithRetryStages":       none(len(c.delays) == 0),
		"WithRetryTopicPrefix":  map[string]string{"": "`<group>" + retrySuffix + "`"}[c.retryPrefix],
		"WithRetryGroup":        map[string]string{"": "`<group>" + retrySuffix + "`"}[c.retryGroup],
		"WithImmediateRetries":  fmt.Sprintf("%d, from %v to %v, full jitter", c.immediate, c.immediateBackoff.Min, c.immediateBackoff.Max),
		"WithMaxAge":            none(c.maxAge == 0),
		"WithClassifier":        none(c.classifier == nil),
		"WithHandlerTimeout":    none(c.handlerTimeout == 0),
		"WithStuckAfter":        fmt.Sprint(c.stuckAfter),
		"WithDLQ":               map[DeadPolicy]string{0: "on, `<group>-dlq`, no stack"}[c.dead],
		"DLQOversize":           map[Oversize]string{OversizeBlock: "`OversizeBlock`"}[c.dlqOversize],
		"WithDedupe":            map[bool]string{true: fmt.Sprintf("none; lease %v", defaultLease)}[c.dedupe == nil],
		"WithMessageID":         none(c.messageID == nil),
		"WithStartOffset":       map[StartOffset]string{Earliest: "`Earliest`"}[c.startOffset],
		"WithIsolation":         map[Isolation]string{ReadCommitted: "`ReadCommitted`"}[c.isolation],
		"WithOnGap":             map[GapPolicy]string{ContinueOnGap: "`ContinueOnGap`"}[c.onGap],
		"WithTopicProvisioning": map[Provisioning]string{VerifyTopics: "`VerifyTopics`"}[c.provisioning],
		"WithFetch": fmt.Sprintf("at least %d byte, %d MiB, %d MiB of a partition, %v",
			c.fetch.MinBytes, c.fetch.MaxBytes>>20, c.fetch.MaxPartitionBytes>>20, c.fetch.MaxWait),
		"WithWindow":          fmt.Sprintf("%d records, %d MiB, span %d", c.window.Records, c.window.Bytes>>20, c.window.Span),
		"WithMemoryBudget":    fmt.Sprintf("%d MiB", c.memoryBudget>>20),
		"WithCommitInterval":  fmt.Sprint(c.commitInterval),
		"WithRevokeDrain":     fmt.Sprint(c.revokeDrain),
		"WithShutdownTimeout": fmt.Sprintf("%v and %v", c.softShutdown, c.hardShutdown),
		"WithStartTimeout":    none(c.startTimeout == 0),
		"WithClientID":        fmt.Sprintf("`%s`", c.clientID),
	}
	maps.Copy(m, ProducerDefaults())
	return m
}
