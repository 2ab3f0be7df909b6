package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "aquarium:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	listen := flag.String("listen", ":8443", "where to listen")
	cert := flag.String("cert", "/certs/tls.crt", "the server's certificate")
	key := flag.String("key", "/certs/tls.key", "its key")
	journal := flag.String("journal", "/data/journal", "where the objects are kept")
	api := flag.String("api", "", "host:port of the cluster's API, if it is not to be reached through its service")
	group := flag.String("group", "aquarium.celox.test", "the API group")
	flag.Parse()
	config, err := rest.InClusterConfig()
	if err != nil {
		return err
	}
	if *api != "" {
		config.Host, config.ServerName = "https://"+*api, "kubernetes.default.svc"
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	objects, err := open(*journal, *group)
	if err != nil {
		return err
	}
	gate, err := newGate(ctx, client)
	if err != nil {
		return errors.Join(err, objects.close())
	}
	pair, err := tls.LoadX509KeyPair(*cert, *key)
	if err != nil {
		return errors.Join(err, objects.close())
	}
	// Watches end with the server: their contexts are made of this one.
	requests, cancel := context.WithCancel(context.Background())
	defer cancel()
	s := &http.Server{
		Addr: *listen, Handler: handler(objects, gate), ReadHeaderTimeout: time.Minute, BaseContext: contextOf(requests),
		TLSConfig: &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequestClientCert},
	}
	ended := make(chan error, 1)
	go func() { ended <- s.ListenAndServeTLS("", "") }()
	fmt.Println("the aquarium is open")
	select {
	case err = <-ended:
	case <-ctx.Done():
		cancel()
		last, done := context.WithTimeout(context.Background(), 5*time.Second)
		err = s.Shutdown(last)
		done()
		<-ended // it says that it was closed
	}
	return errors.Join(err, objects.close())
}
