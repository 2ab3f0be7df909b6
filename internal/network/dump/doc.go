// Package dump reads lists of the kernel's network objects whole. A list that changes while the kernel gives it out is marked as interrupted, and may lack what was
// there all the time; on a machine where pods come and go that happens. It must not know what is listed.
package dump
