// Package gather serves HTTP/2 over connections that gather what is written to them. An HTTP/2 server hands each frame, or a few, to its connection by
// itself; when a hundred watches send the same event at one instant, a TLS record and a system call for each of them cost more than everything
// else. Here they are put into a buffer, which one goroutine per connection encrypts and writes as soon as the other goroutines that can run have added
// what they have. It knows nothing of the API.
package gather
