package siphash_test

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kstage/kstage/internal/siphash"
)

// counting is the bytes 0, 1, 2 and so on.
func counting(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i)
	}
	return b
}

// The authors' own vectors: key 00..0f, messages 00, 01, 02 and so on.
func TestVectors(t *testing.T) {
	t.Parallel()
	k := siphash.KeyOf([16]byte(counting(16)))
	for n, want := range []string{
		"a3817f04ba25a8e66df67214c7550293",
		"da87c1d86b99af44347659119b22fc45",
		"8177228da4a45dc7fca38bdef60affe4",
		"9c70b60c5267a94e5f33b6b02985ed51",
	} {
		sum := k.Sum(string(counting(n)))
		b := binary.LittleEndian.AppendUint64(nil, sum.Lo)
		require.Equal(t, want, hex.EncodeToString(binary.LittleEndian.AppendUint64(b, sum.Hi)), "%d bytes", n)
	}
}

// Each byte of a message and of the key, and the length, has its part in both halves.
func TestEachByteCounts(t *testing.T) {
	t.Parallel()
	key := [16]byte(counting(16))
	for n := range 40 {
		seen := map[uint64]bool{}
		add := func(s siphash.Sum, what string, i int) {
			require.False(t, seen[s.Lo] || seen[s.Hi], "%s %d of %d", what, i, n)
			seen[s.Lo], seen[s.Hi] = true, true
		}
		s := counting(n)
		add(siphash.KeyOf(key).Sum(string(s)), "as it is", 0)
		add(siphash.KeyOf(key).Sum(string(s)+"\x00"), "longer", 0)
		for i := range s {
			s[i] ^= 0x80
			add(siphash.KeyOf(key).Sum(string(s)), "byte", i)
			s[i] ^= 0x80
		}
		for i := range key {
			k := key
			k[i] ^= 1
			add(siphash.KeyOf(k).Sum(string(s)), "key byte", i)
		}
	}
}

func TestKeysDiffer(t *testing.T) {
	t.Parallel()
	require.NotEqual(t, siphash.NewKey(), siphash.NewKey())
}

func BenchmarkSum(b *testing.B) {
	k := siphash.NewKey()
	for _, n := range []int{16, 58, 200} {
		b.Run(fmt.Sprintf("bytes=%d", n), func(b *testing.B) {
			s := strings.Repeat("x", n)
			var x uint64
			for b.Loop() {
				x ^= k.Sum(s).Lo
			}
			_ = x
		})
	}
}
