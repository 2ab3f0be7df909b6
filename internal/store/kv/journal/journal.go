package journal

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"k8s.io/utils/clock"

	"github.com/celox/celox/internal/atomicfile"
	"github.com/celox/celox/internal/store/kv"
	"github.com/celox/celox/internal/store/kv/memory"
)

const (
	// pace is how long the file is left alone after a write: what comes meanwhile is written together.
	pace = 100 * time.Millisecond
	// lostRevisions is more than what can have happened between the last record that reached the file and a crash.
	lostRevisions = 1 << 20
	// smallFile is how large the file may be whatever is in it.
	smallFile = 4 << 20
	// closing is how long Close waits for what is not written yet.
	closing = 10 * time.Second
)

// Config are the choices of an Engine.
type Config struct {
	// Path of the file. Its directory exists.
	Path string
	// Begin is the revision that a new file begins with. 0 is the clock's milliseconds, which is more than any that a lost file can have had.
	Begin int64
	// QuotaBytes is the size beyond which puts are refused with kv.ErrNoSpace; 0 is no limit.
	QuotaBytes int64
	// Clock drives leases and the pace of writing; nil is the real one.
	Clock clock.WithTicker
	// Logger is told what is wrong with the file; nil is silent.
	Logger *slog.Logger
}

// Engine is a kv.Engine in memory that writes behind what happens. Make it with Open.
type Engine struct {
	*memory.Engine
	cfg Config

	stop  context.CancelFunc // ends the writer at once
	hurry chan struct{}      // closed when it is to be written without a pause
	until chan int64         // the revision after which the file is complete
	done  chan struct{}      // closed when nothing is written any more

	// Of the writer alone:
	file    *atomicfile.File // nil after a write has failed, until the file is made anew
	bytes   int64
	written int64 // the revision up to which the file has everything
	leases  map[kv.LeaseID]bool
	enc     encoder
}

// Open reads the file, or begins one, and returns the engine. A file that cannot be understood is put aside, with ".broken" behind its name: what was in
// it was allowed to be lost.
func Open(cfg Config) (*Engine, error) {
	if cfg.Clock == nil {
		cfg.Clock = clock.RealClock{}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	state, err := load(cfg)
	if err != nil {
		return nil, err
	}
	e := &Engine{
		Engine: memory.NewWith(memory.Config{Clock: cfg.Clock, QuotaBytes: cfg.QuotaBytes, Initial: state}), cfg: cfg,
		hurry: make(chan struct{}), until: make(chan int64, 1), done: make(chan struct{}),
	}
	// Made anew, so that nothing is appended behind a torn record, and what was deleted takes no room.
	if err := e.rewrite(); err != nil {
		_ = e.Engine.Close()
		return nil, fmt.Errorf("journal: %w", err)
	}
	ctx, stop := context.WithCancel(context.Background())
	e.stop = stop
	go e.write(ctx)
	return e, nil
}

// load makes the state that the engine begins with.
func load(cfg Config) (*memory.State, error) {
	// Revisions go on from the clock where the file doesn't tell: nobody makes a thousand of them in each second of a server's life.
	fresh := &memory.State{Revision: cfg.Begin}
	if fresh.Revision == 0 {
		fresh.Revision = cfg.Clock.Now().UnixMilli()
	}
	f, err := os.Open(cfg.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return fresh, nil
	}
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	defer f.Close() //nolint:errcheck // only read
	c, err := read(f)
	if err != nil {
		aside := cfg.Path + ".broken"
		cfg.Logger.Error("journal: the file cannot be read; it is put aside and a new one begins", "file", cfg.Path, "aside", aside, "error", err)
		if err := os.Rename(cfg.Path, aside); err != nil {
			return nil, fmt.Errorf("journal: %w", err)
		}
		fresh.Revision += lostRevisions
		return fresh, nil
	}
	if c.torn {
		cfg.Logger.Warn("journal: the end of the file was not written whole and is left out", "file", cfg.Path, "revision", c.revision)
	}
	s := &memory.State{Revision: c.revision, Leases: c.leases, KeyValues: make([]kv.KeyValue, 0, len(c.keys))}
	if !c.ended {
		s.Revision = max(c.revision+lostRevisions, fresh.Revision)
	}
	for _, item := range c.keys {
		s.KeyValues = append(s.KeyValues, item)
	}
	return s, nil
}

// Close writes what is not written yet, and ends the engine.
func (e *Engine) Close() error {
	select {
	case <-e.done: // closed before
		return e.Engine.Close()
	default:
	}
	state, err := e.Engine.Range(context.Background(), kv.RangeRequest{Key: "\x00"})
	if err != nil {
		return err
	}
	e.until <- state.Revision
	close(e.hurry)
	timer := e.cfg.Clock.NewTimer(closing)
	defer timer.Stop()
	select {
	case <-e.done:
	case <-timer.C():
	}
	e.stop()
	<-e.done
	return e.Engine.Close()
}

// write follows the engine and keeps the file.
func (e *Engine) write(ctx context.Context) {
	defer close(e.done)
	defer e.stop()
	changes := e.Engine.Watch(ctx, "", e.written+1)
	last, closed := int64(-1), e.until
	for last < 0 || e.written < last {
		select {
		case resp, ok := <-changes:
			switch {
			case !ok:
				e.closeFile()
				return
			case resp.Err != nil: // the writer was too slow for a compaction: begin anew from what is there
				e.report(e.rewrite())
				changes = e.Engine.Watch(ctx, "", e.written+1)
			default:
				e.report(e.add(resp))
			}
		case last = <-closed:
			closed = nil
			continue
		}
		select {
		case <-e.hurry:
		case <-e.cfg.Clock.After(pace):
		}
	}
	if e.file != nil {
		e.enc.buf = e.enc.buf[:0]
		e.enc.revision(endRecord, e.written)
		e.report(e.flush())
	}
	e.closeFile()
}

func (e *Engine) report(err error) {
	if err != nil {
		e.cfg.Logger.Error("journal: writing failed; it is tried again with the next change", "file", e.cfg.Path, "error", err)
	}
}

func (e *Engine) closeFile() {
	if e.file != nil {
		e.report(errors.Join(e.file.Sync(), e.file.Close()))
		e.file = nil
	}
}

// add appends changes to the file, or makes it anew when most of it is of no use any more.
func (e *Engine) add(resp kv.WatchResponse) error {
	if resp.Revision <= e.written {
		return nil
	}
	if e.file == nil {
		err := e.rewrite()
		e.written = max(e.written, resp.Revision) // the next file has it
		return err
	}
	if e.bytes > smallFile {
		live, err := e.Size(context.Background())
		if err != nil || e.bytes > 2*live {
			return errors.Join(err, e.rewrite())
		}
	}
	e.enc.buf = e.enc.buf[:0]
	for _, ev := range resp.Events {
		switch {
		case ev.KV.ModRevision <= e.written:
		case ev.Type == kv.Delete:
			e.enc.delete(ev.KV.Key, ev.KV.ModRevision)
		case e.known(ev.KV.Lease):
			e.enc.put(ev.KV)
		}
	}
	e.written = resp.Revision
	return e.flush()
}

// known writes a lease that the file doesn't have yet; false says that it has ended: so will have what hangs on it.
func (e *Engine) known(id kv.LeaseID) bool {
	if id == 0 || e.leases[id] {
		return true
	}
	expires, ok := e.Expires(id)
	if ok {
		e.leases[id] = true
		e.enc.lease(id, expires)
	}
	return ok
}

// flush appends the encoder's buffer. A file that could not be written to is given up: the next change makes a new one.
func (e *Engine) flush() error {
	n, err := e.file.Write(e.enc.buf)
	e.bytes += int64(n)
	if err != nil {
		err = errors.Join(err, e.file.Close())
		e.file = nil
	}
	return err
}

// rewrite replaces the file by one with what there is now.
func (e *Engine) rewrite() error {
	if e.file != nil {
		_ = e.file.Close() // it is replaced
		e.file = nil
	}
	state := e.State()
	e.leases = make(map[kv.LeaseID]bool, len(state.Leases))
	e.enc.buf = append(e.enc.buf[:0], magic...)
	e.enc.revision(markRecord, state.Revision)
	for id, expires := range state.Leases {
		e.leases[id] = true
		e.enc.lease(id, expires)
	}
	f, err := atomicfile.Create(e.cfg.Path, 0o600)
	if err != nil {
		return err
	}
	e.file, e.bytes = f, 0
	for _, item := range state.KeyValues {
		e.enc.put(item)
		if len(e.enc.buf) > 1<<18 {
			if err := e.flush(); err != nil {
				return err
			}
			e.enc.buf = e.enc.buf[:0]
		}
	}
	if err := e.flush(); err != nil {
		return err
	}
	if err := f.Place(atomicfile.Synced); err != nil {
		e.file = nil
		return errors.Join(err, f.Close())
	}
	e.written = state.Revision
	return atomicfile.SyncDir(filepath.Dir(e.cfg.Path))
}
