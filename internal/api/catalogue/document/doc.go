// Command document writes docs/api.md: a table of every kind of the catalogue with its versions, verbs, names and subresources.
package main
