package probe

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	grpcstatus "google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	utilexec "k8s.io/utils/exec"
)

// The limits of what is read of an answer.
const (
	maxBodyBytes   = 10 << 10
	maxOutputBytes = 1000
	userAgent      = "kube-probe/1.37"
)

// Executor runs a command in a container. A command that ends with another code than 0 is a utilexec.ExitError.
type Executor interface {
	ExecSync(ctx context.Context, containerID string, cmd []string, timeout time.Duration) (stdout, stderr []byte, err error)
}

// outcome is the answer to one question.
type outcome int8

const (
	success outcome = iota
	failure
	unknown // the question could not be asked: neither for nor against the container
	warning // a success that somebody should know of
)

// check asks once.
func check(ctx context.Context, e Executor, c *corev1.Container, id, podIP string, p *corev1.Probe) (outcome, string) {
	timeout := time.Duration(max(p.TimeoutSeconds, 1)) * time.Second
	switch {
	case p.Exec != nil:
		return checkExec(ctx, e, id, p.Exec.Command, timeout)
	case p.HTTPGet != nil:
		u, err := HTTPURL(p.HTTPGet, c, podIP)
		if err != nil {
			return unknown, err.Error()
		}
		return checkHTTP(ctx, u, p.HTTPGet.HTTPHeaders, timeout)
	case p.TCPSocket != nil:
		port, err := Port(p.TCPSocket.Port, c)
		if err != nil {
			return unknown, err.Error()
		}
		host := p.TCPSocket.Host
		if host == "" {
			host = podIP
		}
		return checkTCP(ctx, net.JoinHostPort(host, strconv.Itoa(port)), timeout)
	case p.GRPC != nil:
		service := ""
		if p.GRPC.Service != nil {
			service = *p.GRPC.Service
		}
		return checkGRPC(ctx, net.JoinHostPort(podIP, strconv.Itoa(int(p.GRPC.Port))), service, timeout)
	}
	return unknown, "missing probe handler"
}

func checkExec(ctx context.Context, e Executor, id string, command []string, timeout time.Duration) (outcome, string) {
	ctx, cancel := context.WithTimeout(ctx, timeout+time.Second)
	defer cancel()
	stdout, stderr, err := e.ExecSync(ctx, id, command, timeout)
	out := truncate(string(stdout) + string(stderr))
	if err == nil {
		return success, out
	}
	var exit utilexec.ExitError
	if errors.As(err, &exit) && exit.Exited() {
		if exit.ExitStatus() == 0 {
			return success, out
		}
		return failure, out
	}
	if grpcstatus.Code(err) == codes.DeadlineExceeded || errors.Is(err, context.DeadlineExceeded) || strings.Contains(err.Error(), "timed out") {
		return failure, fmt.Sprintf("command timed out: %q timed out after %v", strings.Join(command, " "), timeout)
	}
	return unknown, err.Error()
}

// Port resolves a port number or the name of one of the container's ports.
func Port(p intstr.IntOrString, c *corev1.Container) (int, error) {
	n := p.IntValue()
	if p.Type == intstr.String {
		found := false
		for i := range c.Ports {
			if c.Ports[i].Name == p.StrVal {
				n, found = int(c.Ports[i].ContainerPort), true
			}
		}
		if !found {
			if v, err := strconv.Atoi(p.StrVal); err == nil {
				n = v
			} else {
				return 0, fmt.Errorf("no port named %q in container %q", p.StrVal, c.Name)
			}
		}
	}
	if n <= 0 || n > 65535 {
		return 0, fmt.Errorf("invalid port number: %v", n)
	}
	return n, nil
}

// HTTPURL is what an HTTP action asks for.
func HTTPURL(a *corev1.HTTPGetAction, c *corev1.Container, podIP string) (*url.URL, error) {
	port, err := Port(a.Port, c)
	if err != nil {
		return nil, err
	}
	host := a.Host
	if host == "" {
		host = podIP
	}
	u, err := url.Parse(a.Path)
	if err != nil {
		u = &url.URL{Path: a.Path}
	}
	u.Scheme = strings.ToLower(string(a.Scheme))
	if u.Scheme == "" {
		u.Scheme = "http"
	}
	u.Host = net.JoinHostPort(host, strconv.Itoa(port))
	if !strings.HasPrefix(u.Path, "/") {
		u.Path = "/" + u.Path
	}
	return u, nil
}

// Request makes the request of an HTTP action.
func Request(ctx context.Context, u *url.URL, headers []corev1.HTTPHeader) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	agent, accept := false, false
	for _, h := range headers {
		switch http.CanonicalHeaderKey(h.Name) {
		case "Host":
			req.Host = h.Value
		case "User-Agent":
			agent = true
		case "Accept":
			accept = true
		}
		if h.Value != "" || http.CanonicalHeaderKey(h.Name) != "Host" {
			req.Header.Add(h.Name, h.Value)
		}
	}
	if !agent {
		req.Header.Set("User-Agent", userAgent)
	}
	if !accept {
		req.Header.Set("Accept", "*/*")
	}
	return req, nil
}

// NewHTTPClient makes a client for one question: the container's certificate isn't verified (the node has no way to), no
// connection is kept, and redirects to other hosts aren't followed.
func NewHTTPClient(timeout time.Duration) *http.Client {
	return &http.Client{
		Timeout: timeout,
		Transport: &http.Transport{
			TLSClientConfig:    &tls.Config{InsecureSkipVerify: true},
			DisableKeepAlives:  true,
			DisableCompression: true,
			Proxy:              nil,
			DialContext:        (&net.Dialer{Timeout: timeout}).DialContext,
		},
		CheckRedirect: func(req *http.Request, via []*http.Request) error {
			if req.URL.Hostname() != via[0].URL.Hostname() {
				return http.ErrUseLastResponse
			}
			if len(via) >= 10 {
				return errors.New("stopped after 10 redirects")
			}
			return nil
		},
	}
}

func checkHTTP(ctx context.Context, u *url.URL, headers []corev1.HTTPHeader, timeout time.Duration) (outcome, string) {
	req, err := Request(ctx, u, headers)
	if err != nil {
		return failure, err.Error()
	}
	resp, err := NewHTTPClient(timeout).Do(req)
	if err != nil {
		return failure, err.Error()
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, maxBodyBytes))
	if resp.StatusCode >= http.StatusMultipleChoices && resp.StatusCode < http.StatusBadRequest {
		return warning, "Probe terminated redirects, Response body: " + string(body)
	}
	if resp.StatusCode >= http.StatusOK && resp.StatusCode < http.StatusBadRequest {
		return success, truncate(string(body))
	}
	return failure, fmt.Sprintf("HTTP probe failed with statuscode: %d", resp.StatusCode)
}

func checkTCP(ctx context.Context, address string, timeout time.Duration) (outcome, string) {
	conn, err := (&net.Dialer{Timeout: timeout}).DialContext(ctx, "tcp", address)
	if err != nil {
		return failure, err.Error()
	}
	conn.Close()
	return success, ""
}

func checkGRPC(ctx context.Context, address, service string, timeout time.Duration) (outcome, string) {
	conn, err := grpc.NewClient("passthrough:///"+address,
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithUserAgent(userAgent))
	if err != nil {
		return failure, err.Error()
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	resp, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: service})
	if err != nil {
		switch grpcstatus.Code(err) {
		case codes.Unimplemented:
			return failure, fmt.Sprintf("error: this server does not implement the grpc health protocol (grpc.health.v1.Health): %s", err)
		case codes.DeadlineExceeded:
			return failure, fmt.Sprintf("timeout: health rpc did not complete within %v", timeout)
		case codes.Unavailable:
			return failure, fmt.Sprintf("error: failed to connect service %q: %s", address, grpcstatus.Convert(err).Message())
		}
		return failure, fmt.Sprintf("error: health rpc probe failed: %s", err)
	}
	if resp.Status != grpc_health_v1.HealthCheckResponse_SERVING {
		return failure, fmt.Sprintf("service unhealthy (responded with %q)", resp.Status.String())
	}
	return success, "service healthy"
}

func truncate(s string) string {
	if len(s) > maxOutputBytes {
		return s[:maxOutputBytes]
	}
	return s
}
