// Package garbagecollector deletes objects whose owners are gone and carries out the foreground and orphan policies of deletions. It
// keeps a graph of who owns whom, made from the metadata of all objects that informers deliver; what it does with an object is decided from the
// object as the server has it, never from the graph alone.
//
// The package knows metadata only: no kind's spec or status.
package garbagecollector
