package cluster

import (
	"errors"
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// networkClaim is a socket without a file, of which there is one in each network namespace, whatever file systems the processes see. It goes with its process.
const networkClaim = "@celox-node"

// errNetworkTaken is that another node has the network namespace.
var errNetworkTaken = errors.New("the network of this machine is another node's")

// claimNetwork takes the network namespace for the node of this process until release: two nodes in one would take tables, addresses and ports from each
// other for ever. The error is errNetworkTaken if there is one; processes of other users than root make none.
func claimNetwork(name string) (release func(), err error) {
	at := &net.UnixAddr{Name: name, Net: "unix"}
	l, err := net.ListenUnix("unix", at)
	if err == nil {
		return func() { _ = l.Close() }, nil
	}
	if !errors.Is(err, unix.EADDRINUSE) {
		return nil, fmt.Errorf("network of this machine: %w", err)
	}
	owner, err := listener(at)
	if err != nil || owner.Uid != 0 {
		return func() {}, nil // it has gone meanwhile, or is nobody's business
	}
	return nil, fmt.Errorf("%w (process %d)", errNetworkTaken, owner.Pid)
}

// takeNetwork is claimNetwork for a node that starts.
func takeNetwork() (release func(), err error) {
	release, err = claimNetwork(networkClaim)
	if errors.Is(err, errNetworkTaken) {
		err = fmt.Errorf("%w: stop it, or start in a network namespace of its own (nsenter --net=/run/netns/NAME); a server needs none with --disable-node", err)
	}
	return release, err
}

// listener is who listens at an address.
func listener(at *net.UnixAddr) (*unix.Ucred, error) {
	c, err := net.DialUnix("unix", nil, at)
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close() }() // nothing was written
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	var who *unix.Ucred
	if err2 := raw.Control(func(fd uintptr) { who, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err2 != nil {
		return nil, err2
	}
	return who, err
}
