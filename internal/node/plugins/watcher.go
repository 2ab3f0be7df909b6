package plugins

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
	"k8s.io/utils/clock"
)

const (
	callTimeout = 10 * time.Second
	firstRetry  = 500 * time.Millisecond
	maxRetry    = time.Minute
)

// Plugin is what a plugin says of itself.
type Plugin struct {
	Type, Name string
	// Endpoint is the socket that it serves at.
	Endpoint string
	// Versions are what it can speak.
	Versions []string
}

// Handler is told of plugins of one type. Its methods are called concurrently, but for one socket one after the other.
type Handler interface {
	// Register takes a plugin, or says why not.
	Register(Plugin) error
	// Deregister ends a registration.
	Deregister(Plugin)
}

// Config is what New needs.
type Config struct {
	// Dir is where sockets are. It is made if it isn't there.
	Dir string
	// Handlers by the type of plugin.
	Handlers map[string]Handler
	Clock    clock.Clock
	Log      *slog.Logger
}

// Watcher follows the directory. Run is its only method.
type Watcher struct {
	cfg     Config
	sockets map[string]*socket // of Run
	wg      sync.WaitGroup
}

// socket is a file in the directory, and what is done about it.
type socket struct {
	inode  uint64
	cancel context.CancelFunc
	done   chan struct{} // closed when nothing is done about it any more
}

// New makes a Watcher.
func New(cfg Config) *Watcher { return &Watcher{cfg: cfg, sockets: map[string]*socket{}} }

// Run follows the directory until ctx ends. Plugins are not deregistered by that.
func (w *Watcher) Run(ctx context.Context) error {
	defer w.wg.Wait()
	if err := os.MkdirAll(w.cfg.Dir, 0o750); err != nil {
		return fmt.Errorf("plugins: %w", err)
	}
	notify, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("plugins: %w", err)
	}
	defer notify.Close()
	if err := notify.Add(w.cfg.Dir); err != nil {
		return fmt.Errorf("plugins: watch %s: %w", w.cfg.Dir, err)
	}
	for {
		if err := w.scan(ctx); err != nil {
			w.cfg.Log.Warn("cannot look for plugins", "dir", w.cfg.Dir, "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case _, ok := <-notify.Events:
			if !ok {
				return errors.New("plugins: the watch ended")
			}
		case err := <-notify.Errors:
			w.cfg.Log.Debug("watch of the plugins' directory", "error", err) // an overflow: the scan sees it all
		}
	}
}

// scan compares the directory with what is known.
func (w *Watcher) scan(ctx context.Context) error {
	entries, err := os.ReadDir(w.cfg.Dir)
	if err != nil {
		return err
	}
	gone := maps.Clone(w.sockets)
	for _, e := range entries {
		if e.Type()&fs.ModeSocket == 0 || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		info, err := e.Info()
		if err != nil {
			continue // it went away
		}
		var inode uint64
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			inode = st.Ino ^ uint64(st.Ctim.Nano()) // numbers are used again
		}
		before := w.sockets[e.Name()]
		if before != nil {
			delete(gone, e.Name())
			if before.inode == inode {
				continue
			}
			before.cancel()
		}
		sub, cancel := context.WithCancel(ctx)
		s := &socket{inode, cancel, make(chan struct{})}
		w.sockets[e.Name()] = s
		path := filepath.Join(w.cfg.Dir, e.Name())
		w.wg.Go(func() {
			defer close(s.done)
			if before != nil {
				<-before.done // who was there has to be deregistered first: it may have had the same endpoint
			}
			w.serve(ctx, sub, path)
		})
	}
	for name, s := range gone {
		s.cancel()
		delete(w.sockets, name)
	}
	return nil
}

// serve registers the plugin behind a socket, and deregisters it when the socket is gone; run ends with the watcher.
func (w *Watcher) serve(run, ctx context.Context, path string) {
	delay := firstRetry
	for {
		p, err := w.register(ctx, path)
		if err == nil {
			w.cfg.Log.Info("plugin registered", "type", p.Type, "name", p.Name, "endpoint", p.Endpoint)
			<-ctx.Done()
			if run.Err() == nil {
				w.cfg.Handlers[p.Type].Deregister(p)
				w.cfg.Log.Info("plugin is gone", "type", p.Type, "name", p.Name)
			}
			return
		}
		if ctx.Err() != nil {
			return
		}
		w.cfg.Log.Warn("cannot register a plugin; trying again", "socket", path, "error", err, "after", delay)
		t := w.cfg.Clock.NewTimer(delay)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C():
		}
		delay = min(2*delay, maxRetry)
	}
}

// register asks a plugin what it is, gives it to its handler, and tells it the outcome.
func (w *Watcher) register(ctx context.Context, path string) (Plugin, error) {
	conn, err := grpc.NewClient("unix://"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return Plugin{}, err
	}
	defer conn.Close()
	client := registerapi.NewRegistrationClient(conn)
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	info, err := client.GetInfo(call, &registerapi.InfoRequest{}, grpc.WaitForReady(true))
	if err != nil {
		return Plugin{}, fmt.Errorf("get info: %w", err)
	}
	p := Plugin{Type: info.Type, Name: info.Name, Endpoint: info.Endpoint, Versions: info.SupportedVersions}
	if p.Endpoint == "" {
		p.Endpoint = path
	}
	h := w.cfg.Handlers[p.Type]
	if h == nil {
		err = fmt.Errorf("no handler is registered for plugin type: %s", p.Type)
	} else {
		err = h.Register(p)
	}
	outcome := &registerapi.RegistrationStatus{PluginRegistered: err == nil}
	if err != nil {
		outcome.Error = err.Error()
	}
	if _, told := client.NotifyRegistrationStatus(call, outcome); told != nil && err == nil {
		h.Deregister(p)
		err = fmt.Errorf("notify: %w", told)
	}
	return p, err
}
