package kstage

import "github.com/twmb/franz-go/pkg/kgo"

const (
	mostSheets  = 4096    // that wait to be used again
	mostText    = 4 << 10 // bytes of one that does
	mostHeaders = 64      // and headers

	usualHeaders = 18
	usualText    = 384
)

// sheet is what a copy is written on for the client, which writes to it, too. Flights
// are short and copies many, so sheets are used again: to make each anew cost more than
// all the rest of a hand-off, most of it in the garbage collector.
type sheet struct {
	box     *outbox
	copying *copying
	record  kgo.Record
	headers []kgo.RecordHeader
	text    []byte                   // of the headers
	promise func(*kgo.Record, error) // the client's answer to it, made once
}

// sheets are those that wait. Guarded by handOff.mu.
type sheets struct {
	answered func(*sheet, error)
	once     bool // none is used twice: hooks of WithClientOptions may keep the client's records
	idle     []*sheet
}

// take returns a sheet for each of the copies.
func (s *sheets) take(box *outbox, cs []*copying) []*sheet {
	taken := make([]*sheet, len(cs))
	for i, c := range cs {
		taken[i] = s.next()
		taken[i].box, taken[i].copying = box, c
	}
	return taken
}

func (s *sheets) next() *sheet {
	if last := len(s.idle) - 1; last >= 0 {
		sh := s.idle[last]
		s.idle[last] = nil
		s.idle = s.idle[:last]
		return sh
	}
	sh := &sheet{headers: make([]kgo.RecordHeader, 0, usualHeaders), text: make([]byte, 0, usualText)}
	sh.promise = func(_ *kgo.Record, err error) { s.answered(sh, err) }
	return sh
}

// giveBack takes a sheet that the client has answered.
func (s *sheets) giveBack(sh *sheet) {
	sh.box, sh.copying = nil, nil // a hook that keeps the record keeps no more
	if s.once || len(s.idle) == mostSheets || cap(sh.text) > mostText || cap(sh.headers) > mostHeaders {
		return
	}
	sh.record = kgo.Record{}
	clear(sh.headers)
	s.idle = append(s.idle, sh)
}
