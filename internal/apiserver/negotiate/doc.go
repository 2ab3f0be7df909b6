// Package negotiate settles in which form a client and the server talk: it reads Accept and Content-Type headers and turns
// request bodies into versioned objects with the API's own complaints about what it can't read. It knows media types and Go
// types, but nothing of stored state, users or verbs.
package negotiate
