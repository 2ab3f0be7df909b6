package etcd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/celox/celox/internal/store/kv"
)

// maxResponseBytes is how much one answer of a remote etcd may be.
const maxResponseBytes = 1 << 30

// Client is an engine over an etcd cluster that others run.
type Client struct {
	operations
	client *clientv3.Client
	ctx    context.Context // ends with Close
	stop   context.CancelFunc
	wg     sync.WaitGroup
}

// Connect makes an engine over the etcd cluster at endpoints (URLs), with TLS as conf says or, if that is nil, without. It fails if no member
// answers before ctx ends.
func Connect(ctx context.Context, endpoints []string, conf *tls.Config, log *slog.Logger) (*Client, error) {
	if len(endpoints) == 0 {
		return nil, errors.New("etcd: no endpoints")
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints: endpoints, TLS: conf, Logger: newLogger(log, nil).zap,
		DialKeepAliveTime: 30 * time.Second, DialKeepAliveTimeout: 10 * time.Second,
		MaxCallSendMsgSize: maxResponseBytes, MaxCallRecvMsgSize: maxResponseBytes,
	})
	if err != nil {
		return nil, fmt.Errorf("etcd: connect to %v: %w", endpoints, err)
	}
	c := &Client{client: client}
	c.ctx, c.stop = context.WithCancel(context.Background())
	c.api = remote{clientv3.RetryKVClient(client), clientv3.RetryLeaseClient(client), c.ctx}
	if _, err := c.Range(ctx, kv.RangeRequest{Key: "/", CountOnly: true}); err != nil {
		c.Close()
		if why := diagnose(endpoints, conf); why != "" {
			err = fmt.Errorf("%w: %s", kv.ErrUnavailable, why)
		}
		return nil, fmt.Errorf("etcd: no answer from %s: %w", strings.Join(endpoints, ", "), err)
	}
	return c, nil
}

// diagnose finds out why nobody answers, which the client keeps to itself: it tries each endpoint with a plain connection.
func diagnose(endpoints []string, conf *tls.Config) string {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	var errs []string
	for _, endpoint := range endpoints {
		u, err := url.Parse(endpoint)
		if err != nil {
			errs = append(errs, err.Error())
			continue
		}
		var conn net.Conn
		switch u.Scheme {
		case "https":
			if conn, err = (&tls.Dialer{Config: conf}).DialContext(ctx, "tcp", u.Host); err == nil {
				err = refusal(ctx, conn)
			}
		case "unix":
			conn, err = (&net.Dialer{}).DialContext(ctx, "unix", u.Host+u.Path)
		default:
			conn, err = (&net.Dialer{}).DialContext(ctx, "tcp", u.Host)
		}
		if err != nil {
			errs = append(errs, err.Error())
		}
		if conn != nil {
			conn.Close()
		}
	}
	return strings.Join(errs, "; ")
}

// refusal waits for what a server says that does not like the client's certificate: with TLS 1.3 the client's side of the handshake is over by
// then (RFC 8446, 2). One that likes it waits for the client to speak. Nothing is sent, because unread bytes would make the server's kernel
// reset the connection, and its last word with it.
func refusal(ctx context.Context, conn net.Conn) error {
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetReadDeadline(deadline); err != nil {
			return err
		}
	}
	_, err := conn.Read(make([]byte, 1))
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil
	}
	return err
}

// remote makes the client's functions look like the server's.
type remote struct {
	kv    pb.KVClient
	lease pb.LeaseClient
	open  context.Context // ends with Close; a closed client would try again and again
}

func (r remote) Range(ctx context.Context, in *pb.RangeRequest) (*pb.RangeResponse, error) {
	if r.open.Err() != nil {
		return nil, kv.ErrUnavailable
	}
	return r.kv.Range(ctx, in, grpc.MaxCallRecvMsgSize(maxResponseBytes))
}

func (r remote) Txn(ctx context.Context, in *pb.TxnRequest) (*pb.TxnResponse, error) {
	if r.open.Err() != nil {
		return nil, kv.ErrUnavailable
	}
	return r.kv.Txn(ctx, in)
}

func (r remote) Compact(ctx context.Context, in *pb.CompactionRequest) (*pb.CompactionResponse, error) {
	if r.open.Err() != nil {
		return nil, kv.ErrUnavailable
	}
	return r.kv.Compact(ctx, in)
}

func (r remote) LeaseGrant(ctx context.Context, in *pb.LeaseGrantRequest) (*pb.LeaseGrantResponse, error) {
	if r.open.Err() != nil {
		return nil, kv.ErrUnavailable
	}
	return r.lease.LeaseGrant(ctx, in)
}

// Watch asks for a leader, so that a member cut off from the others ends the watch instead of staying silent; the client then goes on
// with another member from where it was.
func (c *Client) Watch(ctx context.Context, prefix string, from int64) <-chan kv.WatchResponse {
	out := make(chan kv.WatchResponse)
	if c.ctx.Err() != nil {
		close(out)
		return out
	}
	ctx, cancel := context.WithCancel(ctx)
	ch := c.client.Watch(clientv3.WithRequireLeader(ctx), prefix, clientv3.WithPrefix(), clientv3.WithRev(from))
	c.wg.Go(func() {
		defer close(out)
		defer cancel()
		for {
			var resp kv.WatchResponse
			select {
			case <-ctx.Done():
				return
			case <-c.ctx.Done():
				return
			case r, ok := <-ch:
				switch {
				case !ok:
					return
				case r.CompactRevision != 0:
					resp = kv.WatchResponse{Revision: r.CompactRevision, Err: kv.ErrCompacted}
				case r.Err() != nil:
					resp = kv.WatchResponse{Err: translate(ctx, r.Err())}
				case len(r.Events) == 0:
					resp = kv.WatchResponse{Revision: r.Header.Revision}
				default:
					resp = remoteResponse(r.Events)
				}
			}
			if !send(ctx, c.ctx, out, resp) || resp.Err != nil {
				return
			}
		}
	})
	return out
}

func remoteResponse(events []*clientv3.Event) kv.WatchResponse {
	out := kv.WatchResponse{Events: make([]kv.Event, len(events))}
	for i, ev := range events {
		out.Events[i].KV = keyValue(ev.Kv)
		if ev.Type == clientv3.EventTypeDelete {
			out.Events[i].Type = kv.Delete
		}
	}
	out.Revision = events[len(events)-1].Kv.ModRevision
	return out
}

// RequestProgress asks for a progress notice on every watch.
func (c *Client) RequestProgress(ctx context.Context) error {
	return translate(ctx, c.client.RequestProgress(clientv3.WithRequireLeader(ctx)))
}

// Size is the size of the database of the first member that answers.
func (c *Client) Size(ctx context.Context) (int64, error) {
	var last error
	for _, endpoint := range c.client.Endpoints() {
		resp, err := c.client.Status(ctx, endpoint)
		if err == nil {
			return resp.DbSize, nil
		}
		last = err
	}
	return 0, translate(ctx, last)
}

// Close ends all watches and the connections.
func (c *Client) Close() error {
	c.stop()
	c.wg.Wait()
	if err := c.client.Close(); err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("etcd: %w", err)
	}
	return nil
}
