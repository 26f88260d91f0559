package main

import (
	"encoding/binary"
	"io"
	"time"
)

type eventKind uint8

const (
	begun     eventKind = iota + 1 // a handler call
	succeeded                      // it will return nil
	failed                         // it will return an error
	cancelled                      // it was told to stop, and says nothing of the record
)

// event is what a consumer process tells of a handler call, before the call returns. It
// is written to a pipe with one system call: a process that is killed has told of all
// that it had begun to return.
type event struct {
	Kind      eventKind
	Stage     uint8
	Attempt   uint16
	Partition int32
	Epoch     uint32 // which assignment of the partition, within the process
	Offset    int64
	Seq       int64
	At        int64 // unix nanoseconds
	Due       int64 // unix nanoseconds, of a record of a retry topic
}

const eventSize = 1 + 1 + 2 + 4 + 4 + 4*8

func (e event) write(w io.Writer) error {
	b := make([]byte, 0, eventSize)
	b = append(b, byte(e.Kind), e.Stage)
	b = binary.LittleEndian.AppendUint16(b, e.Attempt)
	b = binary.LittleEndian.AppendUint32(b, uint32(e.Partition))
	b = binary.LittleEndian.AppendUint32(b, e.Epoch)
	for _, v := range []int64{e.Offset, e.Seq, e.At, e.Due} {
		b = binary.LittleEndian.AppendUint64(b, uint64(v))
	}
	_, err := w.Write(b)
	return err
}

func readEvent(r io.Reader) (e event, err error) {
	var b [eventSize]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return e, err
	}
	e.Kind, e.Stage = eventKind(b[0]), b[1]
	e.Attempt = binary.LittleEndian.Uint16(b[2:])
	e.Partition = int32(binary.LittleEndian.Uint32(b[4:]))
	e.Epoch = binary.LittleEndian.Uint32(b[8:])
	for i, v := range []*int64{&e.Offset, &e.Seq, &e.At, &e.Due} {
		*v = int64(binary.LittleEndian.Uint64(b[12+8*i:]))
	}
	return e, nil
}

// The plan: what becomes of a record follows from its number, so that the checker knows.

var stageDelays = []time.Duration{time.Second, 3 * time.Second} //nolint:gochecknoglobals // a constant in all but type

const keys = 997

func keyOf(seq int64) int64 { return seq % keys }

// fate is how many stages a record fails in; dead: it ends in the dead-letter topic.
func fate(seq int64) (failsBelow int, dead bool) {
	switch seq % 200 {
	case 0:
		return 0, true // permanent
	case 1:
		return len(stageDelays) + 1, true // exhausted
	case 2, 3, 4:
		return 1, false
	case 5:
		return 2, false
	}
	return 0, false
}
