package proxy

import (
	"sync"
	"testing"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/celox/celox/internal/network/networktest"
)

// TestProbeAmongOthers: the kernel can have rules, also while somebody else changes his without end.
func TestProbeAmongOthers(t *testing.T) {
	t.Parallel()
	m := networktest.NewMachine(t, "node")
	m.Must(Probe)
	stop := make(chan struct{})
	var other sync.WaitGroup
	other.Go(func() {
		m.Must(func() error {
			conn, err := nftables.New()
			if err != nil {
				return err
			}
			for {
				select {
				case <-stop:
					return nil
				default:
				}
				table := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "other"})
				conn.AddChain(&nftables.Chain{Table: table, Name: "c"})
				conn.DelTable(table)
				if err := conn.Flush(); err != nil {
					return err
				}
			}
		})
	})
	for range 10 {
		m.Must(func() error {
			if err := Probe(); err != nil && !Passing(err) && !is(err, unix.ENOENT) {
				return err
			}
			return nil
		})
	}
	close(stop)
	other.Wait()
	m.Must(func() error {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		if tables, err := conn.ListTables(); err != nil || len(tables) != 0 {
			t.Errorf("left: %v, %v", tables, err)
		}
		return nil
	})
}

// TestErrorsOfTheKernel: its number is found in what the library makes of it.
func TestErrorsOfTheKernel(t *testing.T) {
	t.Parallel()
	networktest.NewMachine(t, "node").Must(func() error {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		table := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "t"})
		conn.AddChain(&nftables.Chain{Table: table, Name: "c", Type: "nothing-like-that", Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter})
		if err := conn.Flush(); !is(err, unix.ENOENT) || Passing(err) || NoTables(err) {
			t.Errorf("a part that the kernel does not have: %v", err)
		}
		if _, err := conn.ListChain(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "none"}, "none"); !is(err, unix.ENOENT) {
			t.Errorf("a table that is not there: %v", err)
		}
		return nil
	})
}
