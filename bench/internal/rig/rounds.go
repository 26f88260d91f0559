package rig

import (
	"fmt"
	"slices"
)

// Rounds runs the roles in turns, in every second round backwards, and returns the runs of
// each. After each round it calls told with those of that round.
func Rounds(n int, roles []string, addr string, told func(round int, of map[string]Result)) (map[string][]Result, error) {
	runs := map[string][]Result{}
	for i := range n {
		order := slices.Clone(roles)
		if i%2 == 1 {
			slices.Reverse(order)
		}
		round := map[string]Result{}
		for _, role := range order {
			var r Result
			if err := Run(role, addr, &r); err != nil {
				return nil, fmt.Errorf("round %d: %w", i+1, err)
			}
			round[role] = r
			runs[role] = append(runs[role], r)
		}
		told(i+1, round)
	}
	return runs, nil
}

// Ratios are the CPU of one side's runs in proportion to that of another's of the same rounds.
func Ratios(of, to []Result) (ratios []float64) {
	for i := range of {
		ratios = append(ratios, of[i].CPU/to[i].CPU)
	}
	return ratios
}
