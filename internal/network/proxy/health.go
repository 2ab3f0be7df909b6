package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// healthCheck is what a load balancer is told about a service on this node.
type healthCheck struct {
	service name
	local   int // endpoints on this node
}

// healthServers answer on the health check node ports.
type healthServers struct {
	log     *slog.Logger
	proxy   *health
	running map[uint16]*healthServer
	wg      sync.WaitGroup
}

type healthServer struct {
	proxy *health
	now   atomic.Pointer[healthCheck]
	stop  context.CancelFunc
}

// set makes the servers those that are wanted. A port that is taken is reported and tried again with the next change.
func (h *healthServers) set(wanted map[uint16]healthCheck) {
	for port, s := range h.running {
		if _, ok := wanted[port]; !ok {
			s.stop()
			delete(h.running, port)
		}
	}
	for port, c := range wanted {
		s := h.running[port]
		if s == nil {
			l, err := net.Listen("tcp", ":"+portName(port))
			if err != nil {
				h.log.Error("health check of a load balancer", "service", c.service, "port", port, "err", err)
				continue
			}
			ctx, stop := context.WithCancel(context.Background())
			s = &healthServer{proxy: h.proxy, stop: stop}
			s.now.Store(&c)
			h.running[port] = s
			srv := &http.Server{Handler: s, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute}
			h.wg.Go(func() {
				if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
					h.log.Error("health check of a load balancer", "port", port, "err", err)
				}
			})
			h.wg.Go(func() {
				<-ctx.Done()
				_ = srv.Close() // there is nobody left to tell
			})
		}
		s.now.Store(&c)
	}
}

func (h *healthServers) close() {
	h.set(nil)
	h.wg.Wait()
}

// ServeHTTP says whether packets for the service are welcome on this node.
func (s *healthServer) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	c := s.now.Load()
	well, _, _ := s.proxy.well()
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("X-Load-Balancing-Endpoint-Weight", fmt.Sprint(c.local))
	if c.local == 0 || !well {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	// A client that does not read is its own problem.
	_ = json.NewEncoder(w).Encode(map[string]any{
		"service":             map[string]string{"namespace": c.service.namespace, "name": c.service.name},
		"localEndpoints":      c.local,
		"serviceProxyHealthy": well,
	})
}
