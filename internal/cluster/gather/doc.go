// Package gather serves HTTP/2 (RFC 9113) over TLS for a net/http server, made for many streams that wait for the same news.
//
// Go's own HTTP/2 server hands each frame from the handler to a serve loop to a writer, with a TLS record and a system call at the end of it; when a
// hundred watches send the same event at one instant, that costs more than everything else. Here a handler puts its frames on its connection's queue
// itself. Whoever finds nobody writing becomes the writer: it encrypts what is queued, from all streams, and gives it to the kernel in one system call
// that does not wait. Only when the peer is slow a goroutine waits in its stead. Buffers are borrowed while there is something to write: an idle
// connection holds one goroutine, and an idle stream its handler's.
//
// A handler can ask its http.ResponseWriter for more than net/http knows, through interfaces:
//
//	WriteShared(bufs ...[]byte) error   // as Write, without a copy: nobody may ever change the bytes
//	Offer(p []byte) bool                // queues p without a copy, or, if that would have to wait, does nothing; from any goroutine
//	Kick()                              // writes what was offered
//	Continue(f func())                  // f goes on with the answer when the handler has returned, in a goroutine with a small stack
//
// The goroutines that run handlers are used again, so that their stacks need to grow once only.
//
// It does not do: server push, priorities (streams are served in the order in which they write), prior-knowledge cleartext, extended CONNECT. It
// knows nothing of the API.
package gather
