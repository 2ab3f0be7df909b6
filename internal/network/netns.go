package network

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// currentNetNS opens the network namespace of the calling thread.
func currentNetNS() (*os.File, error) {
	f, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	return f, nil
}

// within runs f on a thread that is in the network namespace ns. f must not start goroutines that rely on that.
func within(ns *os.File, f func() error) error {
	done := make(chan error, 1)
	go func() {
		done <- func() error {
			// The thread is given back only if it is where it was; otherwise it ends with this goroutine.
			runtime.LockOSThread()
			home, err := currentNetNS()
			if err != nil {
				runtime.UnlockOSThread()
				return err
			}
			defer home.Close()
			if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
				runtime.UnlockOSThread()
				return fmt.Errorf("enter network namespace: %w", err)
			}
			err = f()
			if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back == nil {
				runtime.UnlockOSThread()
			}
			return err
		}()
	}()
	return <-done
}
