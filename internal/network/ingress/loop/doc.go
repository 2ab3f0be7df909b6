// Package loop carries many TCP connections on one thread: what is written as if each had a goroutine of its own runs as coroutines, which change places without
// Go's scheduler. A thread that the kernel takes the processor from then holds up the connections of this loop and no others, and what comes meanwhile is done in
// the order in which it came. It knows nothing of HTTP.
package loop
