// Package linger closes connections without taking back what was sent on them. When a socket is closed while something that came in has not
// been read, the kernel answers with a reset, and the other side loses what it had not read yet: the last output of a command,
// because its client happened to send a ping. It knows nothing of protocols.
package linger
