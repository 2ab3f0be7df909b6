package policy

import (
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/celox/celox/internal/network/nft"
)

// Watch signals when somebody else changed a table of ours, in whatever way. Its Run must be called.
type Watch struct{ *nft.News }

// NewWatch subscribes to the kernel's news of nftables in the network namespace of the calling thread. Changes by own, a datapath's Port, are not news.
func NewWatch(own uint32) (*Watch, error) {
	news, err := nft.NewNews(socketBuffer, func(m netlink.Message) bool { return m.Header.PID != own && foreign(m) })
	if err != nil {
		return nil, err
	}
	return &Watch{news}, nil
}

// foreign says whether a change is of a table of ours.
func foreign(m netlink.Message) bool {
	if m.Header.Type>>8 != unix.NFNL_SUBSYS_NFTABLES || m.Header.Type&0xff == unix.NFT_MSG_NEWGEN {
		return false
	}
	_, table := about(append(make([]byte, unix.NLMSG_HDRLEN), m.Data...))
	return strings.HasPrefix(table, tablePrefix)
}
