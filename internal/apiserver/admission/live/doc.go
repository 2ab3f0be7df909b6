// Package live keeps what is derived from objects of the store as new as the objects: it is derived again by whoever asks first after
// a change. Whoever has written an object and was answered finds its effect in the next request, without a watch or a goroutine.
package live
