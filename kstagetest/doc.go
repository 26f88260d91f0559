// Package kstagetest helps to test what is built on kstage. It is for tests only:
// it links the testing package.
//
// [RunDedupeStoreTests] checks that a [kstage.DedupeStore] keeps its contract.
package kstagetest
