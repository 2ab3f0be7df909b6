//go:build !race

package world

import "time"

const (
	day = 24 * time.Hour
	// everyWrite is after which writes the controllers are killed: all of them.
	everyWrite = 1
)
