// Package control is how the commands of a user on the machine reach a running Celox: a small HTTP API on a unix socket in the data
// directory, which only root can open. It carries what has no place in the Kubernetes API: images. When no Celox runs, the same commands work
// on the image store directly.
package control
