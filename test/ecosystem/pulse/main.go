package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// health is good as long as there is no file of a name.
type health struct {
	grpc_health_v1.UnimplementedHealthServer
	sick string
}

func (h health) good() bool {
	_, err := os.Stat(h.sick)
	return errors.Is(err, os.ErrNotExist)
}

// Check answers for the service "beat" and for the server as a whole.
func (h health) Check(_ context.Context, r *grpc_health_v1.HealthCheckRequest) (*grpc_health_v1.HealthCheckResponse, error) {
	if r.Service != "" && r.Service != "beat" {
		return nil, status.Error(codes.NotFound, "unknown service")
	}
	if !h.good() {
		return &grpc_health_v1.HealthCheckResponse{Status: grpc_health_v1.HealthCheckResponse_NOT_SERVING}, nil
	}
	return &grpc_health_v1.HealthCheckResponse{Status: grpc_health_v1.HealthCheckResponse_SERVING}, nil
}

func (h health) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	if !h.good() {
		http.Error(w, "sick", http.StatusInternalServerError)
		return
	}
	fmt.Fprintln(w, "ok")
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "pulse:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	sick := flag.String("sick", "/tmp/sick", "the file that says that the health is bad")
	rpc := flag.String("grpc", ":5000", "where to answer gRPC")
	web := flag.String("http", ":8080", "where to answer HTTP")
	flag.Parse()
	h := health{sick: *sick}
	l, err := net.Listen("tcp", *rpc)
	if err != nil {
		return err
	}
	g := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(g, h)
	s := &http.Server{Addr: *web, Handler: h}
	ended := make(chan error, 2)
	go func() { ended <- g.Serve(l) }()
	go func() { ended <- s.ListenAndServe() }()
	select {
	case err = <-ended:
	case <-ctx.Done():
	}
	g.Stop()
	return errors.Join(err, s.Close())
}
