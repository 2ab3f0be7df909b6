// Package table makes the pieces of the Tables that the API answers "kubectl get" with: column definitions and the
// cells that many kinds share (ages, container names, selectors). What a particular kind prints is said next to that kind.
//
// The package knows only API types; it never looks at a clock.
package table
