package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

// patience is how long an answer over UDP may take until the question is asked again.
const patience = time.Second

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "mirror:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	plain := flag.String("http", ":8080", "where to listen for HTTP")
	udp := flag.String("udp", ":8081", "where to listen for UDP")
	secure := flag.String("https", "", "where to listen for HTTPS; empty is nowhere")
	cert := flag.String("cert", "/certs/tls.crt", "the server's certificate")
	key := flag.String("key", "/certs/tls.key", "its key")
	address := flag.String("ask", "", "ask the mirror at this address over UDP, instead of being one")
	times := flag.Int("times", 1, "how many answers to wait for")
	flag.Parse()
	if *address != "" {
		for range *times {
			answer, err := ask(*address)
			if err != nil {
				return err
			}
			fmt.Println(answer)
		}
		return nil
	}
	ended := make(chan error, 3)
	packets, err := net.ListenPacket("udp", *udp)
	if err != nil {
		return err
	}
	go func() { ended <- repeat(packets) }()
	h := http.HandlerFunc(echo)
	first := &http.Server{Addr: *plain, Handler: h, ReadHeaderTimeout: time.Minute}
	go func() { ended <- first.ListenAndServe() }()
	second := &http.Server{Addr: *secure, Handler: h, ReadHeaderTimeout: time.Minute}
	if *secure != "" {
		go func() { ended <- second.ListenAndServeTLS(*cert, *key) }()
	}
	select {
	case err = <-ended:
	case <-ctx.Done():
	}
	return errors.Join(err, first.Close(), second.Close(), packets.Close())
}

// repeat answers each packet with the name of this machine.
func repeat(c net.PacketConn) error {
	name, err := os.Hostname()
	if err != nil {
		return err
	}
	buf := make([]byte, 1500)
	for {
		_, from, err := c.ReadFrom(buf)
		if err != nil {
			return err
		}
		if _, err := c.WriteTo([]byte(name), from); err != nil {
			return err
		}
	}
}

// ask sends a packet, again if nobody answers.
func ask(address string) (string, error) {
	c, err := net.Dial("udp", address)
	if err != nil {
		return "", err
	}
	defer c.Close()
	buf := make([]byte, 1500)
	var last error
	for range 5 {
		if _, err := c.Write([]byte("who are you?")); err != nil {
			return "", err
		}
		if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
			return "", err
		}
		n, err := c.Read(buf)
		if err == nil {
			return string(buf[:n]), nil
		}
		last = err
	}
	return "", last
}

// echo answers with the request.
func echo(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	say := func(v any) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(v) // a client that left
	}
	switch path := r.URL.Path; {
	case path == "/redirect":
		w.Header().Set("Location", "/there?a=b")
		w.WriteHeader(http.StatusFound)
	case path == "/links":
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprint(w, `<html><body><a href="/there">here</a> <a href="other">there</a></body></html>`)
	case path == "/refuse":
		var review struct {
			APIVersion string `json:"apiVersion"`
			Request    struct {
				UID string `json:"uid"`
			} `json:"request"`
		}
		if err := json.Unmarshal(body, &review); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		say(map[string]any{"apiVersion": review.APIVersion, "kind": "AdmissionReview", "response": map[string]any{
			"uid": review.Request.UID, "allowed": false, "status": map[string]any{"message": "the mirror does not like it"},
		}})
	case strings.HasPrefix(path, "/apis/") && strings.Count(path, "/") == 3:
		say(map[string]any{"apiVersion": "v1", "kind": "APIResourceList", "groupVersion": strings.TrimPrefix(path, "/apis/"), "resources": []any{}})
	default:
		name, err := os.Hostname()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		say(map[string]string{"host": name, "method": r.Method, "path": path, "query": r.URL.RawQuery, "body": string(body)})
	}
}
