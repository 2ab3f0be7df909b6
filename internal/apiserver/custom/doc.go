// Package custom serves the objects of CustomResourceDefinitions: what a definition means, how its objects are read, completed,
// checked, shown, converted between versions and merged, and which conditions a definition has.
//
// A Definition is one custom resource as it is served now; it costs almost nothing until somebody asks for its objects, and then
// compiles what is asked for: schemas with the first object, CEL programs with the first write, the types of server-side apply with the
// first write that needs them. It never changes: when the definition changes, another takes its place. A Version turns it into an
// api.Kind, so that the generic handler serves custom objects as it serves all others.
//
// An Object is one custom object in memory: typed metadata, and everything else as JSON values. Each served version works on
// objects of its own version; the store keeps the storage version, and View converts between them, many at a time where a webhook
// does it.
//
// The package knows the store's types and the API's, but no HTTP server: package apiserver registers definitions and calls in.
package custom
