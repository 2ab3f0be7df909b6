//go:build race

package world

import "time"

// day is how long a quiet day is under the race detector, which stops the program after some hundred thousand steps of virtual time in one bubble: it counts
// calls that synctest never returns from. `make unit` runs the whole day without it.
const day = 6 * time.Hour

// everyWrite is after which writes the controllers are killed under the race detector, which is slow; without it `make unit` does so after each.
const everyWrite = 10
