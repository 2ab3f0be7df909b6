// Package holdertest gives tests what a real container needs: the
// celox-runtime program, built on the spot; a root file system made of
// busybox; a cgroup and a directory of their own; and a check that nothing is
// left behind. It must only be imported by tests.
package holdertest
