//go:build !race

package kstage_test

const underRace = false
