//go:build !race

package world

import "time"

const day = 24 * time.Hour
