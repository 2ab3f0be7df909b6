// Package everykind has no code: its tests ask the API server, for every kind of the catalogue, what must hold for all of them, so
// that a new kind is covered by itself. The kinds' samples are internal/api/apitest's.
package everykind
