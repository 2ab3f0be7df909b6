// Package aggregate lets other servers serve API groups of this one (APIService objects). A group version whose APIService names a
// service is passed on to that service, with the caller's name in headers that are believed because of the front proxy's client
// certificate; its availability is watched and told in the APIService's condition. For group versions that are served here the package
// makes the APIServices itself: for built-in groups when the server starts, for custom resources as they come and go.
//
// Nothing polls while there is no other server: a check follows a change of the APIService, of its service or of its endpoints, and
// comes again after a while for those that another server has.
//
// The package knows nothing of authentication and authorization, which are done when a request gets here, nor of how discovery and
// OpenAPI documents are written: it is a source for both.
package aggregate
