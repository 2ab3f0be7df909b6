// Package nft has what those who speak to the kernel's nf_tables in its own words share: attributes of netlink messages, and the news of changes. It doesn't know
// what is in whose tables.
package nft
