// Package bundle carries the celox-runtime program inside of celox, so that
// people hold one file. The build puts the program into bin/, compressed (see pack), before it compiles
// celox; without it everything compiles as well, and Unpack says what to do.
package bundle
