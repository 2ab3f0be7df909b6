package userspace

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/celox/celox/internal/network/proxy"
)

// retryEvery is how often a port is tried that another program has.
const retryEvery = 10 * time.Second

// Config is what New needs.
type Config struct {
	// Namespace is the node's network namespace; nil is that of this process.
	Namespace *os.File
	// Ranges are those of cluster addresses.
	Ranges []netip.Prefix
	// Sources are addresses of the machine; its own packets to services have the first of their family.
	Sources []netip.Addr
	// Pods returns the ranges of this node's pods.
	Pods func() []netip.Prefix
	// Elsewhere reports whether an address is another machine's of the cluster. Packets for it go there, whatever services say.
	Elsewhere func(netip.Addr) bool
	Log       *slog.Logger
}

// Datapath implements proxy.Datapath. Its methods may be called concurrently.
type Datapath struct {
	cfg     Config
	ways    *ways
	news    *news
	packets sync.Pool
	ctx     context.Context
	cancel  context.CancelFunc
	wg      sync.WaitGroup

	mu      sync.Mutex // guards what follows
	wanted  map[proxy.Key]*proxy.Frontend
	servers map[proxy.Key]server
	failed  map[proxy.Key]string // what could not be listened on, and why
	told    map[proxy.Key]bool   // of SCTP: said so
}

// server takes what arrives at one key.
type server interface {
	set(*proxy.Frontend)
	run()
	stop() error
}

// New makes the way to the proxy.
func New(cfg Config) (*Datapath, error) {
	w, err := newWays(cfg.Namespace, cfg.Ranges, cfg.Sources)
	if err != nil {
		return nil, err
	}
	d := &Datapath{
		cfg: cfg, ways: w, wanted: map[proxy.Key]*proxy.Frontend{}, servers: map[proxy.Key]server{}, failed: map[proxy.Key]string{}, told: map[proxy.Key]bool{},
	}
	d.packets.New = func() any { return new(packet) }
	d.ctx, d.cancel = context.WithCancel(context.Background())
	if d.news, err = newNews(d.ways.host); err != nil {
		return nil, errors.Join(err, w.close())
	}
	d.wg.Go(d.retry)
	d.wg.Go(func() { d.news.run(d.ctx, cfg.Log) })
	return d, nil
}

// Tampering is signalled when somebody, perhaps we ourselves, removed an interface, an address or a route of the kind that the datapath has.
func (d *Datapath) Tampering() <-chan struct{} { return d.news.c }

// Close ends everything, connections included.
func (d *Datapath) Close() error {
	d.cancel()
	d.mu.Lock()
	var errs []error
	for k, s := range d.servers {
		errs = append(errs, s.stop())
		delete(d.servers, k)
	}
	d.mu.Unlock()
	d.wg.Wait()
	return errors.Join(append(errs, d.ways.close())...)
}

// Intact implements proxy.Datapath.
func (d *Datapath) Intact() (bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.ways.intact()
}

// Replace implements proxy.Datapath.
func (d *Datapath) Replace(all map[proxy.Key]*proxy.Frontend) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if ok, err := d.ways.intact(); err != nil {
		return err
	} else if !ok {
		if err := d.ways.mend(); err != nil {
			return fmt.Errorf("namespace of services: %w", err)
		}
	}
	var keys []proxy.Key
	for k := range d.wanted {
		if all[k] == nil {
			keys = append(keys, k)
			delete(d.wanted, k)
		}
	}
	for k, f := range all {
		keys = append(keys, k)
		d.wanted[k] = f
	}
	return d.settle(keys)
}

// Update implements proxy.Datapath.
func (d *Datapath) Update(changed map[proxy.Key]*proxy.Frontend) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	var keys []proxy.Key
	for k, f := range changed {
		keys = append(keys, k)
		if f == nil {
			delete(d.wanted, k)
		} else {
			d.wanted[k] = f
		}
	}
	return d.settle(keys)
}

// retry tries again what others had.
func (d *Datapath) retry() {
	t := time.NewTicker(retryEvery)
	defer t.Stop()
	for {
		select {
		case <-d.ctx.Done():
			return
		case <-t.C:
			if err := d.again(); err != nil {
				d.cfg.Log.Error("service proxy", "err", err)
			}
		}
	}
}

func (d *Datapath) again() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.settle(slices.Collect(maps.Keys(d.failed)))
}

// settle makes the servers of keys what they should be. d.mu must be held.
func (d *Datapath) settle(keys []proxy.Key) error {
	if len(keys) == 0 || d.ctx.Err() != nil {
		return nil
	}
	var own map[netip.Addr]bool
	err := d.ways.within(d.ways.host, func() (err error) {
		own, err = machineAddrs()
		return err
	})
	if err != nil {
		return fmt.Errorf("addresses of this machine: %w", err)
	}
	if err := d.deliver(own); err != nil {
		return err
	}
	for _, k := range keys {
		f, s := d.wanted[k], d.servers[k]
		switch {
		case f != nil && k.Protocol == corev1.ProtocolSCTP:
			if !d.told[k] {
				d.told[k] = true
				d.cfg.Log.Warn("service proxy: SCTP needs a kernel with nf_tables; the port does not work", "service", f.Service, "where", k)
			}
		case f == nil || len(f.Endpoints)+len(f.LocalEndpoints) == 0 || !(k.NodePort() || own[k.Addr] || d.ways.leads(k.Addr)):
			// The kernel refuses what nobody listens on.
			delete(d.failed, k)
			delete(d.told, k)
			if s != nil {
				delete(d.servers, k)
				if err := s.stop(); err != nil {
					return fmt.Errorf("stop listening on %v: %w", k, err)
				}
			}
		case s != nil:
			s.set(f)
		default:
			d.listen(k, f)
		}
	}
	return nil
}

// deliver routes the external addresses that no machine of the cluster has. d.mu must be held.
func (d *Datapath) deliver(own map[netip.Addr]bool) error {
	to := map[netip.Addr]bool{}
	for k, f := range d.wanted {
		if !f.Cluster && !k.NodePort() && !own[k.Addr] && !contains(d.cfg.Ranges, k.Addr) && !d.cfg.Elsewhere(k.Addr) {
			to[k.Addr] = true
		}
	}
	return d.ways.set(to)
}

// listen begins to serve a key. What fails is said once, and tried again later: other services have nothing to do with it. d.mu must be held.
func (d *Datapath) listen(k proxy.Key, f *proxy.Frontend) {
	s, err := d.open(k, f)
	if err != nil {
		if d.failed[k] != err.Error() {
			d.failed[k] = err.Error()
			d.cfg.Log.Error("service proxy: the port of a service cannot be listened on (has another program got it?); will try again", "service", f.Service, "where", k, "err", err)
		}
		return
	}
	if d.failed[k] != "" {
		delete(d.failed, k)
		d.cfg.Log.Info("service proxy: the port of a service is listened on now", "service", f.Service, "where", k)
	}
	d.servers[k] = s
	d.wg.Go(s.run)
}

func (d *Datapath) open(k proxy.Key, f *proxy.Frontend) (server, error) {
	where := netip.AddrPortFrom(k.Addr, k.Port).String()
	ns := d.ways.host
	if !k.NodePort() && d.ways.leads(k.Addr) {
		ns = d.ways.inner
	}
	suffix := "4"
	if k.Addr.Is6() {
		suffix = "6"
	}
	lc := net.ListenConfig{
		Control:         func(_, _ string, raw syscall.RawConn) error { return control(raw, k) },
		KeepAliveConfig: keepAlive(),
	}
	lc.SetMultipathTCP(false)
	var out server
	err := d.ways.within(ns, func() error {
		if k.Protocol == corev1.ProtocolUDP {
			c, err := lc.ListenPacket(d.ctx, "udp"+suffix, where)
			if err != nil {
				return err
			}
			s := &udpServer{d: d, key: k, c: c.(*net.UDPConn), talks: map[talker]*talk{}}
			if s.raw, err = s.c.SyscallConn(); err != nil {
				return errors.Join(err, c.Close())
			}
			s.inside = d.inside
			s.front.Store(f)
			out = s
			return nil
		}
		l, err := lc.Listen(d.ctx, "tcp"+suffix, where)
		if err != nil {
			return err
		}
		s := &tcpServer{d: d, key: k, l: l.(*net.TCPListener)}
		s.inside = d.inside
		s.front.Store(f)
		out = s
		return nil
	})
	return out, err
}

// lost takes a server away whose socket somebody has shut down, and puts another in its place.
func (d *Datapath) lost(k proxy.Key, s server) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.servers[k] != s || d.ctx.Err() != nil {
		return // it was stopped
	}
	delete(d.servers, k)
	if err := s.stop(); err != nil {
		d.cfg.Log.Warn("service proxy: stop listening", "where", k, "err", err)
	}
	if f := d.wanted[k]; f != nil {
		d.listen(k, f)
	}
}

// control prepares a socket before it is bound.
func control(raw syscall.RawConn, k proxy.Key) error {
	var err error
	set := func(fd uintptr, level, option int) {
		if err == nil {
			err = unix.SetsockoptInt(int(fd), level, option, 1)
		}
	}
	failed := raw.Control(func(fd uintptr) {
		// A node port and the same port of an address are different places.
		set(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT)
		switch {
		case k.Addr.Is4():
			set(fd, unix.IPPROTO_IP, unix.IP_FREEBIND)
			set(fd, unix.IPPROTO_IP, unix.IP_PKTINFO)
		default:
			set(fd, unix.IPPROTO_IPV6, unix.IPV6_FREEBIND)
			set(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO)
		}
	})
	return errors.Join(failed, err)
}

func keepAlive() net.KeepAliveConfig {
	return net.KeepAliveConfig{Enable: true, Idle: silence, Interval: silence / 4, Count: 4}
}

// dial calls an endpoint from the node.
func (d *Datapath) dial(network string, to netip.AddrPort) (net.Conn, error) {
	var conn net.Conn
	err := d.ways.within(d.ways.host, func() (err error) {
		ctx, cancel := context.WithTimeout(d.ctx, callTime)
		defer cancel()
		// One address, no fallback, no resolver: the socket is made by this thread.
		conn, err = (&net.Dialer{FallbackDelay: -1, KeepAliveConfig: keepAlive()}).DialContext(ctx, network, to.String())
		return err
	})
	return conn, err
}

// inside reports whether an address is a pod's of this node, or the node's own.
func (d *Datapath) inside(a netip.Addr) bool {
	if contains(d.cfg.Pods(), a) {
		return true
	}
	var own map[netip.Addr]bool
	err := d.ways.within(d.ways.host, func() (err error) {
		own, err = machineAddrs()
		return err
	})
	return err == nil && own[a]
}

// nodePortAt reports whether an address of this machine has node ports: loopback doesn't.
func (d *Datapath) nodePortAt(a netip.Addr) bool { return a.IsValid() && !a.IsLoopback() }

func (d *Datapath) packet() *packet { return d.packets.Get().(*packet) }
