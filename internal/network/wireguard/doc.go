// Package wireguard holds one WireGuard device of the kernel to a list of far ends, and keeps the machine's key.
//
// The private key is made on the machine and never leaves it. What the kernel cannot do is one error, [ErrNotSupported]: who wants encryption and gets that
// must not go on without. The package speaks netlink only, and knows nothing of nodes, pods or routes.
package wireguard
