package etcd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/client/pkg/v3/types"
	"go.etcd.io/etcd/server/v3/config"
	"go.etcd.io/etcd/server/v3/etcdserver"
	"go.etcd.io/etcd/server/v3/etcdserver/api/membership"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3rpc"
	"go.etcd.io/etcd/server/v3/features"
	"go.etcd.io/etcd/server/v3/storage/mvcc"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc"

	"github.com/celox/celox/internal/store/kv"
)

const (
	// DefaultQuotaBytes is how large the database may grow.
	DefaultQuotaBytes = 8 << 30
	// DefaultMaxRequestBytes is etcd's own limit of one request.
	DefaultMaxRequestBytes = 3 << 19 // 1.5 MiB

	// A lone member needs no heartbeats and is elected without waiting (see elect), so it ticks slowly: every tick is a wake-up of an
	// idle process. The shortest life of a lease is one and a half elections.
	tick          = time.Second
	electionTicks = 2
	// commitInterval is how long changes are gathered before they go from the log, where they are safe, to the database.
	commitInterval = time.Second
	commitLimit    = 10000
	// bcryptCost is for etcd's own users, of whom there are none; it complains without.
	bcryptCost = 10

	// The name and the addresses of the lone member. Nobody listens there; they only make the member's id.
	memberName = "celox"
	memberURL  = "http://127.0.0.1:2380"
	clientURL  = "http://127.0.0.1:2379"
)

// ErrInUse says that another living process has the data directory.
var ErrInUse = errors.New("the data directory is in use by another process")

// Config are the choices of an embedded server.
type Config struct {
	// Dir is the data directory, laid out as etcd does. An upstream member's directory can be opened.
	Dir string
	// QuotaBytes is the size at which writes are refused with kv.ErrNoSpace; 0 is DefaultQuotaBytes.
	QuotaBytes int64
	// MaxRequestBytes limits one request; 0 is DefaultMaxRequestBytes.
	MaxRequestBytes uint
	// Listen, if set, is where etcd's own API is served for tools like etcdctl: an absolute path of a unix socket, which only the
	// owner can open, or with TLS an address like "127.0.0.1:2379".
	Listen string
	TLS    *tls.Config
	// Crowded, if set, is told when many begin to write at once, and when they no longer do, the end included. While many write, there is always a thread that syncs the log.
	// Calls come one after another, true first.
	Crowded func(bool)
	// Logger hears etcd's warnings. Nil is silent.
	Logger *slog.Logger
	// Fatal is called when etcd cannot go on (the disk is full or broken) after it started; it must not return. Nil ends the process.
	// Nothing acknowledged is lost by ending it.
	Fatal func(reason error)
}

// Engine is an embedded etcd.
type Engine struct {
	operations
	writes *gathering
	server *etcdserver.EtcdServer
	grpc   *grpc.Server
	lock   *os.File
	dir    string
	quota  int64
	log    *slog.Logger
	// endpoint is where the listener can be reached.
	endpoint string

	ctx  context.Context // ends with Close
	stop context.CancelFunc
	wg   sync.WaitGroup
	once sync.Once

	mu      sync.Mutex
	watches map[*watch]struct{}
}

// Start runs an etcd on cfg.Dir, new or as it was left, and returns when it can be written to.
func Start(ctx context.Context, cfg Config) (*Engine, error) {
	if cfg.Dir == "" {
		return nil, errors.New("etcd: no data directory")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.QuotaBytes == 0 {
		cfg.QuotaBytes = DefaultQuotaBytes
	}
	if cfg.MaxRequestBytes == 0 {
		cfg.MaxRequestBytes = DefaultMaxRequestBytes
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("etcd: %w", err)
	}
	if err := os.Chmod(cfg.Dir, 0o700); err != nil { // secrets are in here
		return nil, fmt.Errorf("etcd: %w", err)
	}
	lock, err := lockDir(cfg.Dir, cfg.Logger)
	if err != nil {
		return nil, err
	}
	e := &Engine{lock: lock, dir: cfg.Dir, quota: cfg.QuotaBytes, log: cfg.Logger, watches: map[*watch]struct{}{}}
	e.ctx, e.stop = context.WithCancel(context.Background())
	if err := e.start(ctx, cfg); err != nil {
		e.Close()
		return nil, fmt.Errorf("etcd: start on %s: %w", cfg.Dir, err)
	}
	return e, nil
}

func (e *Engine) start(ctx context.Context, cfg Config) (err error) {
	log := newLogger(cfg.Logger, cfg.Fatal)
	urls, err := types.NewURLs([]string{memberURL})
	if err != nil {
		return err
	}
	clients, err := types.NewURLs([]string{clientURL})
	if err != nil {
		return err
	}
	// etcd calls its logger's Fatal or Panic when it cannot open its files.
	defer func() {
		if r := recover(); r != nil {
			var isError bool
			if err, isError = r.(error); !isError {
				err = fmt.Errorf("%v", r)
			}
		}
	}()
	tune()
	server, err := etcdserver.NewServer(config.ServerConfig{
		Name: memberName, DataDir: cfg.Dir,
		ClientURLs: clients, PeerURLs: urls,
		InitialPeerURLsMap: types.URLsMap{memberName: urls}, InitialClusterToken: "celox", NewCluster: true,
		SnapshotCount: etcdserver.DefaultSnapshotCount, SnapshotCatchUpEntries: etcdserver.DefaultSnapshotCatchUpEntries,
		MaxSnapFiles: 5, MaxWALFiles: 5,
		TickMs: uint(tick / time.Millisecond), ElectionTicks: electionTicks, InitialElectionTickAdvance: true, PreVote: true,
		AutoCompactionMode: "periodic", // with a retention of 0: off
		QuotaBackendBytes:  cfg.QuotaBytes, BackendBatchInterval: commitInterval, BackendBatchLimit: commitLimit,
		MaxTxnOps: 128, MaxRequestBytes: cfg.MaxRequestBytes, MaxConcurrentStreams: 1 << 20,
		StrictReconfigCheck: true, BcryptCost: bcryptCost, MaxLearners: membership.DefaultMaxLearners, V2Deprecation: config.V2DeprDefault,
		WarningApplyDuration: time.Second, WarningUnaryRequestDuration: time.Second,
		ServerFeatureGate: features.NewDefaultServerFeatureGate(memberName, log.zap), Metrics: "basic", Logger: log.zap,
	})
	if err != nil {
		return err
	}
	e.server = server
	log.started() // whatever fails from here on fails in a goroutine of etcd's, where nobody could catch it
	server.Start()
	if err := e.elect(ctx); err != nil {
		return err
	}
	e.api = struct {
		pb.KVServer
		pb.LeaseServer
	}{v3rpc.NewQuotaKVServer(server), v3rpc.NewQuotaLeaseServer(server)}
	if e.writes, err = newGathering(server, cfg.Crowded); err != nil {
		return err
	}
	// The database may have been full, and the quota is another one now.
	if err := e.Reclaim(ctx); err != nil {
		return err
	}
	if cfg.Listen != "" {
		return e.listen(cfg)
	}
	return nil
}

// elect makes a lone member leader at once, instead of after an election timeout, by telling it what a leader who hands over says:
// go ahead. The member refuses until it has applied its own membership, so it is told again. It is not told anything before it has
// caught up with its own log: the beginning of the log is dropped as soon as it is applied, and a candidate that still wants to look at
// it panics.
func (e *Engine) elect(ctx context.Context) error {
	id := uint64(e.server.MemberID())
	raftStatus, err := raftStatusOf(e.server)
	if err != nil {
		return err
	}
	nudge := time.NewTicker(2 * time.Millisecond)
	defer nudge.Stop()
	for {
		select {
		case <-e.server.ReadyNotify():
			return nil
		case <-e.server.StopNotify():
			return errors.New("stopped while starting")
		case <-ctx.Done():
			return ctx.Err()
		case <-nudge.C:
		}
		s := raftStatus()
		if e.server.Leader() != 0 || s.Applied != s.GetCommit() || s.Applied == 0 {
			continue
		}
		switch n := len(e.server.Cluster().Members()); {
		case n > 1:
			return fmt.Errorf("it is that of one of %d members, who have to agree: take a snapshot of their cluster and restore it to a directory of its own (etcdutl snapshot restore)", n)
		case n == 1:
			if err := e.server.Process(ctx, &raftpb.Message{Type: raftpb.MsgTimeoutNow.Enum(), To: &id, From: &id}); err != nil {
				return err
			}
		}
	}
}

// Endpoint is the URL for etcdctl --endpoints, "" if Config.Listen was not set.
func (e *Engine) Endpoint() string { return e.endpoint }

// listen serves etcd's API to tools.
func (e *Engine) listen(cfg Config) error {
	var l net.Listener
	var err error
	if filepath.IsAbs(cfg.Listen) {
		l, err = listenUnix(cfg.Listen)
		e.endpoint = "unix://" + cfg.Listen
	} else {
		if cfg.TLS == nil {
			return fmt.Errorf("listening on %s needs TLS", cfg.Listen)
		}
		if l, err = net.Listen("tcp", cfg.Listen); err == nil {
			e.endpoint = "https://" + l.Addr().String()
		}
	}
	if err != nil {
		return err
	}
	e.grpc = v3rpc.Server(e.server, cfg.TLS, nil)
	e.wg.Go(func() {
		if err := e.grpc.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			e.log.Warn("etcd: the client listener ended", "error", err)
		}
	})
	return nil
}

// listenUnix binds through the directory's descriptor, because a socket's path is limited to 108 bytes.
func listenUnix(path string) (net.Listener, error) {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.Listen("unix", fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path)))
	if err != nil {
		return nil, err
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false) // that name means another directory by then; Start removes what is left
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// Txn applies ops if all guards hold; else it reads the guarded keys in the same transaction.
func (e *Engine) Txn(ctx context.Context, guards []kv.Guard, ops []kv.Op) (kv.TxnResponse, error) {
	if len(guards) != 1 || len(ops) != 1 || guards[0].Key == "" || ops[0].Key == "" {
		return e.operations.Txn(ctx, guards, ops)
	}
	resp, err := e.writes.write(ctx, guards[0], ops[0])
	if err != nil {
		return kv.TxnResponse{}, translate(ctx, err)
	}
	return txnResponse(resp), nil
}

// Compact forgets the history before revision. If the database had outgrown its quota and now fits again, writes are allowed again.
func (e *Engine) Compact(ctx context.Context, revision int64) error {
	err := e.operations.Compact(ctx, revision)
	if err != nil && !errors.Is(err, kv.ErrCompacted) {
		return err
	}
	return errors.Join(err, e.Reclaim(ctx))
}

// Reclaim lifts the no-space alarm when giving free pages back has made room.
func (e *Engine) Reclaim(ctx context.Context) error {
	for _, alarm := range e.server.Alarms() {
		if alarm.Alarm != pb.AlarmType_NOSPACE {
			continue
		}
		be := e.server.Backend()
		be.ForceCommit()
		if err := be.Defrag(); err != nil {
			return fmt.Errorf("etcd: defragment: %w", err)
		}
		if be.Size() >= e.quota*9/10 {
			return nil
		}
		e.log.Info("etcd: there is space again, writes are allowed", "bytes", be.Size(), "quota", e.quota)
		_, err := e.server.Alarm(ctx, &pb.AlarmRequest{Action: pb.AlarmRequest_DEACTIVATE, MemberID: alarm.MemberID, Alarm: alarm.Alarm})
		return translate(ctx, err)
	}
	return nil
}

// Size is the size of the database file.
func (e *Engine) Size(context.Context) (int64, error) {
	if e.ctx.Err() != nil {
		return 0, kv.ErrUnavailable
	}
	return e.server.Backend().Size(), nil
}

// watch is one running watch.
type watch struct {
	stream   mvcc.WatchStream
	from     int64
	progress chan struct{} // capacity 1: a notice is wanted
}

// Watch reads etcd's own stream, without a client between.
func (e *Engine) Watch(ctx context.Context, prefix string, from int64) <-chan kv.WatchResponse {
	out := make(chan kv.WatchResponse)
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ctx.Err() != nil {
		close(out)
		return out
	}
	w := &watch{stream: e.server.Watchable().NewWatchStream(), from: from, progress: make(chan struct{}, 1)}
	e.watches[w] = struct{}{}
	e.wg.Go(func() {
		defer close(out)
		defer func() {
			e.mu.Lock()
			delete(e.watches, w)
			e.mu.Unlock()
			w.stream.Close()
		}()
		if _, err := w.stream.Watch(ctx, mvcc.WatchID(0), first(prefix), streamEnd(prefix), from); err != nil {
			send(ctx, e.ctx, out, kv.WatchResponse{Err: translate(ctx, err)})
			return
		}
		e.pump(ctx, w, out)
	})
	return out
}

// first and streamEnd bound a prefix as etcd's stream, beneath its API, wants it: no key is empty, and an empty end is none.
func first(prefix string) []byte {
	if prefix == "" {
		return []byte{0}
	}
	return []byte(prefix)
}

func streamEnd(prefix string) []byte {
	if end := prefixEnd(prefix); len(end) != 1 || end[0] != 0 {
		return end
	}
	return []byte{}
}

// maxQueue is how many responses pump holds for a reader that is busy. Beyond, etcd holds them: it then moves the watch to those that
// catch up, which takes a resync period.
const maxQueue = 4096

// pump passes responses on until the watch ends.
func (e *Engine) pump(ctx context.Context, w *watch, out chan<- kv.WatchResponse) {
	var retry <-chan time.Time // a notice is wanted, but the watch is still catching up
	var queue []kv.WatchResponse
	for {
		in := w.stream.Chan()
		var next kv.WatchResponse
		var ready chan<- kv.WatchResponse
		if len(queue) > 0 {
			next, ready = queue[0], out
		}
		if len(queue) >= maxQueue || (len(queue) > 0 && queue[len(queue)-1].Err != nil) {
			in = nil
		}
		var resp kv.WatchResponse
		select {
		case <-ctx.Done():
			return
		case <-e.ctx.Done():
			return
		case ready <- next:
			if next.Err != nil {
				return
			}
			if queue[0] = (kv.WatchResponse{}); len(queue) == 1 {
				queue = queue[:0]
			} else {
				queue = queue[1:]
			}
			continue
		case <-w.progress:
			if resp, retry = w.ask(); resp.Revision == 0 {
				continue
			}
		case <-retry:
			if resp, retry = w.ask(); resp.Revision == 0 {
				continue
			}
		case r, ok := <-in:
			switch {
			case !ok:
				return
			case r.CompactRevision != 0:
				resp = kv.WatchResponse{Revision: r.CompactRevision, Err: kv.ErrCompacted}
			case len(r.Events) == 0:
				resp = kv.WatchResponse{Revision: r.Revision}
			default:
				resp = response(r.Events)
			}
		}
		queue = append(queue, resp)
	}
}

// ask requests a notice. It returns one itself if the watch begins in the future, where etcd would stay silent, and says when to
// ask again if the watch is still catching up.
func (w *watch) ask() (kv.WatchResponse, <-chan time.Time) {
	if rev := w.stream.Rev(); rev < w.from {
		return kv.WatchResponse{Revision: rev}, nil
	}
	if w.stream.RequestProgressAll() {
		return kv.WatchResponse{}, nil
	}
	return kv.WatchResponse{}, time.After(5 * time.Millisecond)
}

func send(ctx, engine context.Context, out chan<- kv.WatchResponse, resp kv.WatchResponse) bool {
	select {
	case out <- resp:
		return true
	case <-ctx.Done():
		return false
	case <-engine.Done():
		return false
	}
}

// RequestProgress asks for a progress notice on every watch.
func (e *Engine) RequestProgress(ctx context.Context) error {
	if e.ctx.Err() != nil {
		return kv.ErrUnavailable
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for w := range e.watches {
		select {
		case w.progress <- struct{}{}:
		default:
		}
	}
	return ctx.Err()
}

// Close stops the server and releases the data directory.
func (e *Engine) Close() error {
	e.once.Do(func() {
		e.mu.Lock()
		e.stop()
		e.mu.Unlock()
		if e.grpc != nil {
			e.grpc.Stop()
		}
		e.wg.Wait()
		if e.server != nil {
			e.server.Stop()
		}
		if e.writes != nil {
			e.writes.end()
		}
		e.lock.Close()
	})
	return nil
}
