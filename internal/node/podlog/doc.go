// Package podlog reads and rotates the logs of containers, which the runtime writes in CRI's format: a line is a time, a
// stream, a tag (F for a full line, P for a part of one) and the text.
//
// It knows files only: paths, not pods.
package podlog
