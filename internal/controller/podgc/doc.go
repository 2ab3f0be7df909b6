// Package podgc deletes pods that nobody will ever finish: those bound to a node that no longer exists, those being deleted before they
// were bound, and the oldest of the ended ones when there are too many.
package podgc
