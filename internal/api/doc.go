// Package api says what the API is. A Kind is data: names, versions, Go types, subresources, table columns, and the pure functions
// that default, validate and guard its objects. The kinds themselves are in one package per group (core, apps, batch, ...), one file
// per kind; package catalogue puts them together.
//
// The package and its children know nobody: no store, no HTTP, no clients.
package api
