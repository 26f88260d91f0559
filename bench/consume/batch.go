package main

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// encodedBatch is n records with one of some keys each.
func encodedBatch(n, size int) []byte {
	var records []byte
	v := make([]byte, size)
	for i := range v {
		v[i] = byte(i * 7)
	}
	for i := range n {
		r := kmsg.Record{OffsetDelta: int32(i), Key: fmt.Appendf(nil, "key-%012d", i*7919%keys), Value: v}
		r.Length = int32(len(r.AppendTo(nil)) - 1) // of the body: its own length byte, zero now, not counted
		records = append(records, r.AppendTo(nil)...)
	}
	rb := kmsg.RecordBatch{
		PartitionLeaderEpoch: -1, Magic: 2, LastOffsetDelta: int32(n - 1),
		FirstTimestamp: 1_600_000_000_000, MaxTimestamp: 1_600_000_000_000,
		ProducerID: -1, ProducerEpoch: -1, FirstSequence: -1,
		NumRecords: int32(n), Records: records,
	}
	b := rb.AppendTo(nil)
	const lengthEnd, crcAt, crcEnd = 12, 17, 21
	binary.BigEndian.PutUint32(b[8:], uint32(len(b)-lengthEnd))
	binary.BigEndian.PutUint32(b[crcAt:], crc32.Checksum(b[crcEnd:], crc32.MakeTable(crc32.Castagnoli)))
	return b
}
