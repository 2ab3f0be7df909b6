//go:build race

package world

import "time"

// day is how long a quiet day is under the race detector, which stops the program after some hundred thousand steps of virtual time (with six hours in one run of two): it counts
// calls that synctest never returns from. `make unit` runs the whole day without it.
const day = 2 * time.Hour

// everyWrite is after which writes the controllers are killed under the race detector, which is slow; without it `make unit` does so after each.
const everyWrite = 10
