// Package flows has the kernel forget connections that go on to where they should not.
package flows
