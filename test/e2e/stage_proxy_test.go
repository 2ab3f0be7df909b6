package e2e

import (
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/celox/celox/test/e2e/machine"
)

// webProxy is an HTTP proxy that connects (CONNECT) from a namespace.
type webProxy struct {
	ns *machine.NetNS
	wg sync.WaitGroup

	mu    sync.Mutex
	asked map[string]int // guarded by mu
	conns []net.Conn     // guarded by mu
}

func newWebProxy(t *testing.T, ns *machine.NetNS, address string) *webProxy {
	t.Helper()
	p := &webProxy{ns: ns, asked: map[string]int{}}
	l, err := ns.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: p}
	p.wg.Go(func() { _ = srv.Serve(l) }) // until it is closed
	t.Cleanup(func() {
		_ = srv.Close()
		p.mu.Lock()
		for _, c := range p.conns {
			_ = c.Close()
		}
		p.mu.Unlock()
		p.wg.Wait()
	})
	return p
}

// ServeHTTP implements http.Handler.
func (p *webProxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.asked[r.Method+" "+r.Host]++
	p.mu.Unlock()
	if r.Method != http.MethodConnect {
		http.Error(w, "CONNECT only", http.StatusMethodNotAllowed)
		return
	}
	far, err := p.ns.Dial(r.Context(), "tcp", r.Host)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	near, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		_ = far.Close()
		return
	}
	p.mu.Lock()
	p.conns = append(p.conns, near, far)
	p.mu.Unlock()
	if _, err := io.WriteString(near, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		return // and the client goes
	}
	carry := func(to net.Conn, from io.Reader) {
		_, _ = io.Copy(to, from) // how it ends is their business
		_ = near.Close()
		_ = far.Close()
	}
	p.wg.Go(func() { carry(far, rw) })
	p.wg.Go(func() { carry(near, far) })
}

// TestBehindProxy: an agent whose only way to the server is an HTTP proxy, and which the server cannot call.
func TestBehindProxy(t *testing.T) {
	t.Parallel()
	s := newFleet(t)
	if err := s.router.Filter(machine.Firewall{TCPPorts: []uint16{6443, 10250}}); err != nil {
		t.Fatal(err)
	}
	proxy := newWebProxy(t, s.router, "10.7.2.254:3128")
	s.machines = []*machine.Machine{s.machines[0], s.machines[2]}
	server, agent := s.machines[0], s.machines[1]
	agent.Env = []string{"HTTPS_PROXY=http://10.7.2.254:3128", "https_proxy=", "NO_PROXY=192.0.2.0/24", "no_proxy="}
	if err := server.Start("--cluster-cidr", onePods, "--service-cidr", oneServices); err != nil {
		t.Fatal(err)
	}
	out, err := server.Celox("token", "create")
	if err != nil {
		t.Fatal(err)
	}
	if err := agent.StartAgent("--server", stageServer, "--token", strings.TrimSpace(out)); err != nil {
		t.Fatal(err)
	}
	giveBusybox(t, agent)
	if s.client, err = server.Client(); err != nil {
		t.Fatal(err)
	}
	s.serve(t, "far", agent)
	if out, err := server.Kubectl(nil, "exec", "far", "--", "echo", "hello"); err != nil || out != "hello\n" {
		t.Errorf("exec through the tunnel, through the proxy: %q, %v", out, err)
	}
	proxy.mu.Lock()
	defer proxy.mu.Unlock()
	if proxy.asked["CONNECT 10.7.1.1:6443"] < 2 { // the API and the tunnel
		t.Errorf("the proxy was asked for %v", proxy.asked)
	}
	for what := range proxy.asked {
		if !strings.HasPrefix(what, "CONNECT 10.7.1.1:6443") {
			t.Errorf("the proxy was asked for %s", what)
		}
	}
}
