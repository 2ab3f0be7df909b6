// Package records keeps what is to be remembered of sandboxes: a file of JSON for each, by the sandbox's id, in a directory that may have other files, too.
// It doesn't know what is in a record.
package records
