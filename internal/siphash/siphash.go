// Package siphash hashes strings to 128 bits under a secret key: SipHash-2-4 with
// its long output, by Aumasson and Bernstein. Without the key nobody can find two
// strings of one hash, and by accident there are none.
package siphash

import (
	"crypto/rand"
	"encoding/binary"
	"math/bits"
)

// Key is the secret.
type Key struct{ k0, k1 uint64 }

// Sum is a hash.
type Sum struct{ Lo, Hi uint64 }

// NewKey draws a key. It cannot fail: where there is no randomness, the program ends.
func NewKey() Key {
	var b [16]byte
	_, _ = rand.Read(b[:])
	return KeyOf(b)
}

// KeyOf makes a key of 16 bytes.
func KeyOf(b [16]byte) Key {
	return Key{binary.LittleEndian.Uint64(b[:8]), binary.LittleEndian.Uint64(b[8:])}
}

// Sum hashes s.
func (k Key) Sum(s string) Sum {
	v0, v1 := k.k0^0x736f6d6570736575, k.k1^0x646f72616e646f6d^0xee
	v2, v3 := k.k0^0x6c7967656e657261, k.k1^0x7465646279746573
	length := uint64(len(s)) << 56
	for ; len(s) >= 8; s = s[8:] {
		m := word(s)
		v3 ^= m
		v0, v1, v2, v3 = round(v0, v1, v2, v3)
		v0, v1, v2, v3 = round(v0, v1, v2, v3)
		v0 ^= m
	}
	m := length | tail(s)
	v3 ^= m
	v0, v1, v2, v3 = round(v0, v1, v2, v3)
	v0, v1, v2, v3 = round(v0, v1, v2, v3)
	v0 ^= m

	v0, v1, v2, v3 = finish(v0, v1, v2^0xee, v3)
	lo := v0 ^ v1 ^ v2 ^ v3
	v0, v1, v2, v3 = finish(v0, v1^0xdd, v2, v3)
	return Sum{Lo: lo, Hi: v0 ^ v1 ^ v2 ^ v3}
}

// word is the first eight bytes of s, little end first.
func word(s string) uint64 {
	_ = s[7]
	return uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 |
		uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
}

// tail is what is left of s, fewer than eight bytes.
func tail(s string) (m uint64) {
	for i := range len(s) {
		m |= uint64(s[i]) << (8 * i)
	}
	return m
}

func finish(v0, v1, v2, v3 uint64) (w0, w1, w2, w3 uint64) {
	for range 4 {
		v0, v1, v2, v3 = round(v0, v1, v2, v3)
	}
	return v0, v1, v2, v3
}

// round is inlined: a call would cost more than it does.
func round(v0, v1, v2, v3 uint64) (w0, w1, w2, w3 uint64) {
	v0 += v1
	v2 += v3
	v1 = bits.RotateLeft64(v1, 13) ^ v0
	v3 = bits.RotateLeft64(v3, 16) ^ v2
	v0 = bits.RotateLeft64(v0, 32) + v3
	v2 += v1
	v3 = bits.RotateLeft64(v3, 21) ^ v0
	v1 = bits.RotateLeft64(v1, 17) ^ v2
	return v0, v1, bits.RotateLeft64(v2, 32), v3
}
