// Package sim runs whole clusters in virtual time: embedded brokers, several
// consumers in one or two groups, producers, a network and a dedupe store that fail,
// and checks after each run that nothing was lost, overtaken, committed too early or
// handled where it must not be.
//
// One seed is one world. [PlanOf] draws all of it (a pure function), [Run] lives it
// inside a testing/synctest bubble and writes down what happens, [Check] reads that
// history and names every rule that was broken (pure again).
package sim
