// Package workers keeps goroutines that have done their work for a while and has them do more of it: work that goes deep into the stack pays for a new
// goroutine's growing as much as for itself, if it is short. It bounds nothing and knows nothing of what is done.
package workers
