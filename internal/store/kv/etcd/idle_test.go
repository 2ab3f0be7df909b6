package etcd_test

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/celox/celox/internal/store/kv"
	"github.com/celox/celox/internal/store/kv/etcd"
)

func TestIdleX(t *testing.T) {
	e := open(t, etcd.Config{})
	e.Txn(t.Context(), nil, []kv.Op{{Key: "k"}})
	time.Sleep(8 * time.Second)
	var a, b syscall.Rusage
	io := func() string {
		d, _ := os.ReadFile("/proc/self/io")
		for _, l := range strings.Split(string(d), "\n") {
			if strings.HasPrefix(l, "write_bytes") || strings.HasPrefix(l, "wchar") {
				fmt.Print(l, " ")
			}
		}
		return ""
	}
	io()
	syscall.Getrusage(0, &a)
	time.Sleep(20 * time.Second)
	syscall.Getrusage(0, &b)
	io()
	ms := func(r syscall.Rusage) int64 { return (r.Utime.Nano() + r.Stime.Nano()) / 1000 }
	fmt.Println("cpu µs in 20s:", ms(b)-ms(a), "switches", b.Nvcsw-a.Nvcsw)
}
