package join

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/celox/celox/internal/cluster/wayout"
)

const (
	// learnedFile has the servers that the cluster told of, as host:port, a line each.
	learnedFile = "servers"
	// serverName is a name that the certificate of every API server is for, whatever its address: that of the service.
	serverName = "kubernetes"
	// otherTimeout is how long a server may take to answer while there are others to ask.
	otherTimeout = 3 * time.Second
)

// ServerURLs reads the addresses of API servers, with commas between them.
func ServerURLs(list string) ([]*url.URL, error) {
	var out []*url.URL
	for text := range strings.SplitSeq(list, ",") {
		u, err := ServerURL(strings.TrimSpace(text))
		if err != nil {
			return nil, err
		}
		out = append(out, u)
	}
	return out, nil
}

// Learn takes up where the cluster says that its servers are, and keeps it. The one that the node was given stays as it is: the cluster's own words may be of
// addresses that this machine does not reach.
func (i *Identity) Learn(servers []string) error {
	if len(servers) == 0 {
		return nil
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if slices.Equal(i.learned, servers) {
		return nil
	}
	i.learned = slices.Clone(servers)
	if err := write(filepath.Join(i.dir, learnedFile), []byte(strings.Join(servers, "\n")+"\n")); err != nil {
		return fmt.Errorf("identity of the node: keep the servers: %w", err)
	}
	return nil
}

// loadServers reads what Learn kept.
func (i *Identity) loadServers() error {
	data, err := os.ReadFile(filepath.Join(i.dir, learnedFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("identity of the node: %w", err)
	}
	for text := range strings.FieldsSeq(string(data)) {
		if _, _, err := net.SplitHostPort(text); err == nil { // what is damaged is learned again
			i.learned = append(i.learned, text)
		}
	}
	return nil
}

// ways are the addresses at which a server may be, the one that answered last first, then those that the node was given.
func (i *Identity) ways() []string {
	i.mu.Lock()
	defer i.mu.Unlock()
	var out []string
	add := func(address string) {
		if address != "" && !slices.Contains(out, address) {
			out = append(out, address)
		}
	}
	add(i.answered)
	if given, err := ServerURLs(i.Server); err == nil {
		for _, u := range given {
			add(u.Host)
		}
	}
	for _, a := range i.learned {
		add(a)
	}
	return out
}

// dial connects to the first server that answers. The error is that of the first that does not.
func (i *Identity) dial(ctx context.Context, network string) (net.Conn, error) {
	ways := i.ways()
	var first error
	for n, address := range ways {
		timeout := dialTimeout
		if n < len(ways)-1 {
			timeout = otherTimeout
		}
		conn, err := (&wayout.Dialer{Timeout: timeout, KeepAlive: keepAlive}).DialContext(ctx, network, address)
		if err == nil {
			i.mu.Lock()
			i.answered = address
			i.mu.Unlock()
			return conn, nil
		}
		if first == nil {
			first = err
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil, first
}
