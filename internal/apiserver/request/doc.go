// Package request says what an HTTP request asks of the API: the verb, the resource, the namespace and the name that its
// path and query mean, who asks, and what the server wants to tell the client beside the answer (warnings, audit id). It knows
// nothing of kinds, stores or handlers, so that authorization, admission and the handlers can share its words.
package request
