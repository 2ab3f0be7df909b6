// Package vm is a whole machine for tests that this machine's kernel cannot run: a virtual one with Debian's kernel, in which cgroup v2 has
// every controller. The machine is emulated (QEMU), so it needs no help from the processor and runs wherever Debian's packages install.
//
// Its disk holds busybox, the celox under test and nothing else, and is made anew for each run. What the test wants done inside goes through
// a serial port to a shell (Machine.Sh); the API server is reached at a forwarded port of the loopback address (Machine.Client).
package vm
