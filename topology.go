package kstage

import "time"

// Provisioning says whether Run looks at its topics, or makes them.
type Provisioning int

const (
	VerifyTopics Provisioning = iota // look, and refuse to start on a problem
	CreateTopics                     // create what is missing, verify the rest
	TrustTopics                      // do not look
)

type (
	Topology struct {
		Group, RetryGroup string
		Topics            []string // or Pattern
		Pattern           string
		Stages            []StageTopic
		DLQ               string
	}
	StageTopic struct {
		Topic string
		Delay time.Duration
	}
	TopicProblem struct {
		Topic, What, Fix string
		Warning          bool
	}
)

func (p TopicProblem) String() string { return p.Topic + ": " + p.What }
