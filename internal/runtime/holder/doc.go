// Package holder is the door between celox and the small process that holds
// the containers (cmd/celox-runtime): the messages that both speak, and the
// client that celox uses.
//
// There is one holder per runtime directory. It is the parent of every
// container, owns their output and exit codes, and outlives celox. The client
// starts it when nobody answers, asks an older one to replace itself by the
// binary that this celox carries, and starts a new one when it was killed: the
// successor adopts the containers from the journal (State files) below the
// runtime directory.
//
// # Wire format
//
// A message is a four byte big-endian length and that many bytes of JSON, on a
// unix stream socket. Descriptors travel as SCM_RIGHTS with the first byte. A
// connection carries one request at a time; the answer of most operations is
// one message. Exec and attach answer twice (started, then ended); events never
// end.
//
// The package must not know Kubernetes, CRI or images: a Task is an OCI runtime
// specification and a few words about its stdio.
package holder
