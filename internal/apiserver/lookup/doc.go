// Package lookup reads single objects and small lists out of the store's memory as their Go types, for those who stand at the
// API server's doors: authentication, authorization, admission and the proxies. They need the state as of now, their own
// process's last write included, which an informer cannot promise.
//
// What it returns is shared with every other reader: it is never modified. The package must not write, and it knows no rules.
package lookup
