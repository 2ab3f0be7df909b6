package machine

import (
	"fmt"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
)

// netInterfaces names the interfaces of the calling thread's namespace.
func netInterfaces() ([]string, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, l := range links {
		names = append(names, l.Attrs().Name)
	}
	return names, nil
}

// tablesLeft complains about nftables tables in the calling thread's namespace.
func tablesLeft() error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	tables, err := c.ListTables()
	if err != nil {
		return err
	}
	for _, t := range tables {
		return fmt.Errorf("nftables table left: %s", t.Name)
	}
	return nil
}
