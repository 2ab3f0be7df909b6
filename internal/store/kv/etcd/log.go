package etcd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// database is what etcd calls the part that logs for its database.
const database = "bbolt"

// logger bridges etcd's zap to slog: warnings and errors only.
type logger struct {
	zap     *zap.Logger
	serving *atomic.Bool
}

// started says that from now on a fatal message is no longer a failure to start.
func (l logger) started() { l.serving.Store(true) }

func newLogger(log *slog.Logger, fatal func(error)) logger {
	if fatal == nil {
		fatal = func(reason error) {
			log.Error("etcd cannot go on", "error", reason)
			os.Exit(1)
		}
	}
	serving := new(atomic.Bool)
	core := &slogCore{log: log}
	z := zap.New(core, zap.WithFatalHook(fatalHook{serving: serving, fatal: fatal}), zap.WithPanicHook(fatalHook{serving: serving, fatal: fatal}))
	return logger{zap: z, serving: serving}
}

// slogCore is a zap core that writes to slog.
type slogCore struct {
	log  *slog.Logger
	with []zapcore.Field
}

func (c *slogCore) Enabled(level zapcore.Level) bool { return level >= zapcore.WarnLevel }

func (c *slogCore) With(fields []zapcore.Field) zapcore.Core {
	return &slogCore{log: c.log, with: append(c.with[:len(c.with):len(c.with)], fields...)}
}

func (c *slogCore) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) && !harmless(e) {
		return ce.AddCore(e, c)
	}
	return ce
}

// harmless are complaints that say nothing: at every first start a new database has no version yet and elect is told to wait, and a
// call that fails tells its caller so itself, as everything in the database does.
func harmless(e zapcore.Entry) bool {
	switch e.Message {
	case "Failed to detect schema version", "failed to update storage version", "retrying of unary invoker failed":
		return true
	}
	return e.LoggerName == database || strings.Contains(e.Message, " cannot campaign at term ")
}

func (c *slogCore) Write(e zapcore.Entry, fields []zapcore.Field) error {
	if e.Level >= zapcore.PanicLevel {
		return nil // fatalHook tells
	}
	level := slog.LevelWarn
	if e.Level >= zapcore.ErrorLevel {
		level = slog.LevelError
	}
	attrs := make([]slog.Attr, 0, len(c.with)+len(fields))
	for _, f := range append(c.with[:len(c.with):len(c.with)], fields...) {
		enc := zapcore.NewMapObjectEncoder()
		f.AddTo(enc)
		attrs = append(attrs, slog.Any(f.Key, enc.Fields[f.Key]))
	}
	c.log.LogAttrs(context.Background(), level, "etcd: "+e.Message, attrs...)
	return nil
}

func (c *slogCore) Sync() error { return nil }

// describe makes an error of a message and its "error" field.
func describe(e zapcore.Entry, fields []zapcore.Field) error {
	for _, f := range fields {
		if err, ok := f.Interface.(error); ok && f.Type == zapcore.ErrorType {
			return fmt.Errorf("%s: %w", e.Message, err)
		}
	}
	return errors.New(e.Message)
}

// fatalHook runs when etcd gives up, which it does by logging at the levels fatal and panic: a failure to start unwinds to Start, a
// later one goes to Config.Fatal.
type fatalHook struct {
	serving *atomic.Bool
	fatal   func(error)
}

func (h fatalHook) OnWrite(ce *zapcore.CheckedEntry, fields []zapcore.Field) {
	err := describe(ce.Entry, fields)
	if !h.serving.Load() {
		panic(err)
	}
	h.fatal(err)
}
