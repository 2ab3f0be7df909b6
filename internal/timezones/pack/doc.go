// Command pack compresses the Go release's table of time zones for package timezones:
//
//	pack zoneinfo.zst
package main
