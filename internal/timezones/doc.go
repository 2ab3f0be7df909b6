// Package timezones knows the world's time zones where the machine does not: a minimal image has no files of them, and cron jobs and
// expressions name zones. It is what the standard library's time/tzdata is for, in a seventh of the size: the library's table is
// compressed, and unpacked when a zone is first asked for that the machine has no file of.
//
// The table is that of the Go release that `go generate` ran with.
package timezones
