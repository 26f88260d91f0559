package kstagetest

import (
	"encoding/hex"
	"strings"

	"github.com/kstage/kstage"
)

// Two keys that a store takes for one lose a record: each group of keys here is
// claimed in one store, and every second one confirmed.

func (p *probe) areAllDifferent(keys []string) {
	p.Helper()
	held := make([]lent, len(keys))
	for i, key := range keys {
		held[i] = p.finds(kstage.ClaimNew, key, "not claimed before")
	}
	for i, key := range keys {
		p.others().finds(kstage.ClaimInProgress, key, "held")
		if i%2 == 0 {
			p.want(nil, p.confirm(held[i].Claim), "Confirm by the holder of "+show(key))
		}
	}
	for i, key := range keys {
		want := kstage.ClaimInProgress
		if i%2 == 0 {
			want = kstage.ClaimDone
		}
		p.others().finds(want, key, "after others were confirmed")
	}
}

func keysAreBytes(p *probe) {
	p.areAllDifferent([]string{
		"a", "", "\x00", "\x00\x00", "\x00a", "a\x00", "a\x00b", "a\x00c", "a\x00b\x00", // the library joins with NULs
		"A", "a ", " a", "a\t", "a\n", "a\r\n", "ab", "b", "ba",
		"\xff", "\xfe", "\x80", "\xc0\x80", "\xff\xff", "\ufffd", // bytes that are no UTF-8, and what stands for them
		"\u00e9", "e\u0301", "e", "\u00df", "ss", "\u017f", // one look, two spellings
		"*", "?", "[a]", "%", "_", "a*", "a%", "{a}", "{a}b", // wildcards and hash tags
		"'", "''", `"`, `\`, `\\`, "`", "$1", "a:b", "a/b", "a//b", "a/../b", ".", "..", "%00", "%61", "+", "#", ";--",
		"0", "00", "-0", "1", "1.0", "1e0", "0x1", "true", "null", "NULL", "nil",
	})
}

// Around what fields, indexes and messages can hold; they differ in the first byte,
// in the last, and in length.
func keysMayBeLong(p *probe) {
	var keys []string
	for _, n := range []int{63, 64, 127, 128, 255, 256, 1023, 1024, 2712, 4096, 65_535, 65_536, 1 << 20} {
		s := strings.Repeat("k", n-2)
		keys = append(keys, "a"+s+"a", "b"+s+"a", "a"+s+"b")
	}
	p.areAllDifferent(keys)
}

// Pairs of one hash. Where a hash stands for a key, it has to be one for which
// nobody can find such pairs.
func keysOfOneHashAreTwo(p *probe) {
	var keys []string
	for _, pair := range collisions() {
		keys = append(keys, pair.a, pair.b)
	}
	p.areAllDifferent(keys)
}

type collision struct{ hash, a, b string }

func collisions() []collision {
	fnv := "\xd5\x6b\xb9\x53\x42\x87\x08\x36" // its hash is 0, and stays 0 with each NUL
	return []collision{
		{"FNV-1a, 64 bits", fnv, fnv + "\x00"},
		{"xxHash64, seed 0", stripes("\x01\x00egatsk", "\x02\x00egatsk"), stripes("\x03\x00egatsk", "\x9d\x8d\xbf\xf1\xfe\xe1\xd0\xa8")},
		{"MD5", unhex(md5A), unhex(md5B)},
		{"FNV-1a, 32 bits", "costarring", "liquid"},
		{"FNV-1, 32 bits", "creamwove", "quists"},
		{"CRC-32", "plumless", "buckeroo"},
		{"times 33, 32 bits", "hetairas", "mentioner"},
		{"times 31", "Aa", "BB"},
	}
}

// stripes is 64 bytes, of which two words are not 0: those that the first of the
// hash's four lanes sees.
func stripes(first, second string) string {
	zeros := strings.Repeat("\x00", 24)
	return first + zeros + second + zeros
}

// Published by Wang and Yu in 2005.
const (
	md5A = "d131dd02c5e6eec4693d9a0698aff95c2fcab58712467eab4004583eb8fb7f89" +
		"55ad340609f4b30283e488832571415a085125e8f7cdc99fd91dbdf280373c5b" +
		"d8823e3156348f5bae6dacd436c919c6dd53e2b487da03fd02396306d248cda0" +
		"e99f33420f577ee8ce54b67080a80d1ec69821bcb6a8839396f9652b6ff72a70"
	md5B = "d131dd02c5e6eec4693d9a0698aff95c2fcab50712467eab4004583eb8fb7f89" +
		"55ad340609f4b30283e4888325f1415a085125e8f7cdc99fd91dbd7280373c5b" +
		"d8823e3156348f5bae6dacd436c919c6dd53e23487da03fd02396306d248cda0" +
		"e99f33420f577ee8ce54b67080280d1ec69821bcb6a8839396f965ab6ff72a70"
)

func unhex(s string) string {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic("kstagetest: BUG: " + err.Error())
	}
	return string(b)
}
