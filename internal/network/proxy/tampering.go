package proxy

import (
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/celox/celox/internal/network/nft"
)

// Tampering signals when somebody in this network namespace, perhaps we ourselves, removed a table, a chain or a rule. Its Run must be called.
type Tampering struct{ *nft.News }

// NewTampering subscribes to the kernel's news of nftables.
func NewTampering() (*Tampering, error) {
	news, err := nft.NewNews(0, func(m netlink.Message) bool {
		switch m.Header.Type & 0xff {
		case unix.NFT_MSG_DELTABLE, unix.NFT_MSG_DELCHAIN, unix.NFT_MSG_DELRULE:
			return true
		}
		return false
	})
	if err != nil {
		return nil, err
	}
	return &Tampering{news}, nil
}
