// Package namespace empties a Namespace that is being deleted and then lets it go: it deletes every object of every namespaced
// resource, reports in the conditions what is still there, and removes the finalizer "kubernetes" when nothing is.
package namespace
