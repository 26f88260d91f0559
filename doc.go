// Package kstage consumes Kafka records without losing one.
package kstage
