// Package share lets objects of a kind that there are many of share what is equal in them: a hundred thousand pods come from a few templates, and as many events
// use a few words. What the store holds is read only, so that nobody can tell. What is equal is found by its stored bytes, which are at hand, not by comparing objects.
//
// The package must not know the store or the server; it knows the Go types and the wire tags of what it shares.
package share
