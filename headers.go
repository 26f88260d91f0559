package kstage

import "github.com/twmb/franz-go/pkg/kgo"

const headerMessageID = "message-id"

func lastHeader(hs []kgo.RecordHeader, key string) ([]byte, bool) {
	for i := len(hs) - 1; i >= 0; i-- {
		if hs[i].Key == key {
			return hs[i].Value, true
		}
	}
	return nil, false
}
