package kvtest

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/celox/celox/internal/store/kv"
)

// Compare runs random operations on two engines and fails when they answer differently. The engines may have content from earlier
// runs: each run works below a prefix of its own, and revisions are compared by their distance from where the run began.
func Compare(t *testing.T, a, b kv.Engine) {
	run := 0
	rapid.Check(t, func(t *rapid.T) {
		run++
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		pair := [2]*side{newSide(t, a, run), newSide(t, b, run)}
		live := [2]<-chan kv.WatchResponse{}
		for i, s := range pair {
			live[i] = s.begin(ctx)
		}
		steps := rapid.IntRange(1, 60).Draw(t, "steps")
		for range steps {
			op := randomStep(t, pair[0])
			got, want := pair[1].do(op), pair[0].do(op)
			if got != want {
				t.Fatalf("%+v:\n one says %s\n the other %s", op, want, got)
			}
		}
		ends := [2]int64{pair[0].end(), pair[1].end()}
		if got, want := pair[1].read(live[1], ends[1]), pair[0].read(live[0], ends[0]); got != want {
			t.Fatalf("watch:\n one says %s\n the other %s", want, got)
		}
		if run%10 != 0 { // etcd takes its time to bring a watch from an old revision up
			return
		}
		for i, s := range pair {
			live[i] = s.e.Watch(ctx, s.prefix, max(s.compacted, s.base+1))
		}
		if got, want := pair[1].read(live[1], ends[1]), pair[0].read(live[0], ends[0]); got != want {
			t.Fatalf("history:\n one says %s\n the other %s", want, got)
		}
	})
}

// side is one engine in one run.
type side struct {
	t         *rapid.T
	e         kv.Engine
	prefix    string
	base      int64 // the revision at the beginning
	compacted int64
}

func newSide(t *rapid.T, e kv.Engine, run int) *side {
	s := &side{t: t, e: e, prefix: fmt.Sprintf("run%d/", run)}
	s.base = s.revision()
	s.compacted = s.base
	return s
}

func (s *side) revision() int64 {
	resp, err := s.e.Range(context.Background(), kv.RangeRequest{Key: "none"})
	if err != nil {
		s.t.Fatal(err)
	}
	return resp.Revision
}

// step is one operation, with keys and revisions relative to the run.
type step struct {
	kind     string
	guards   []kv.Guard
	ops      []kv.Op
	request  kv.RangeRequest
	revision int64
}

var keys = []string{"a", "a/b", "b", "c", "c\x00", "d"}

func randomStep(t *rapid.T, s *side) step {
	top := s.revision() - s.base
	rev := func(label string) int64 { return rapid.Int64Range(0, top+1).Draw(t, label) }
	key := rapid.SampledFrom(keys)
	switch kind := rapid.SampledFrom([]string{"txn", "txn", "txn", "txn", "range", "range", "compact"}).Draw(t, "kind"); kind {
	case "txn":
		st := step{kind: kind}
		for range rapid.IntRange(0, 2).Draw(t, "guards") {
			st.guards = append(st.guards, kv.Guard{Key: key.Draw(t, "key"), ModRevision: rev("mod")})
		}
		for _, k := range rapid.SliceOfNDistinct(key, 1, 3, rapid.ID).Draw(t, "keys") {
			op := kv.Op{Key: k, Delete: rapid.Bool().Draw(t, "delete")}
			if !op.Delete {
				op.Value = []byte(rapid.StringN(0, 3, 9).Draw(t, "value"))
			}
			st.ops = append(st.ops, op)
		}
		return st
	case "range":
		st := step{kind: kind, request: kv.RangeRequest{Key: key.Draw(t, "from"), Revision: rev("at")}}
		st.request.Limit = rapid.Int64Range(0, 3).Draw(t, "limit")
		st.request.KeysOnly = rapid.Bool().Draw(t, "keys only")
		st.request.CountOnly = rapid.IntRange(0, 4).Draw(t, "count only") == 0
		if rapid.Bool().Draw(t, "interval") {
			st.request.End = key.Draw(t, "to")
		}
		return st
	default:
		return step{kind: kind, revision: rev("revision")}
	}
}

func (s *side) do(st step) string {
	ctx := context.Background()
	switch st.kind {
	case "txn":
		guards := make([]kv.Guard, len(st.guards))
		for i, g := range st.guards {
			guards[i] = kv.Guard{Key: s.prefix + g.Key}
			if g.ModRevision > 0 {
				guards[i].ModRevision = s.base + g.ModRevision
			}
		}
		ops := make([]kv.Op, len(st.ops))
		for i, op := range st.ops {
			ops[i] = op
			ops[i].Key = s.prefix + op.Key
		}
		resp, err := s.e.Txn(ctx, guards, ops)
		if err != nil {
			return class(err)
		}
		return fmt.Sprint(resp.Succeeded, resp.Revision-s.base, s.show(resp.Current))
	case "range":
		r := st.request
		r.Key = s.prefix + r.Key
		if r.End != "" {
			r.End = s.prefix + r.End
		}
		if r.Revision > 0 {
			r.Revision += s.base
		}
		resp, err := s.e.Range(ctx, r)
		if err != nil {
			return class(err)
		}
		return fmt.Sprint(resp.Count, resp.More, resp.Revision-s.base, s.show(resp.KVs))
	default:
		err := s.e.Compact(ctx, s.base+st.revision)
		if err == nil {
			s.compacted = s.base + st.revision
		}
		return class(err)
	}
}

func class(err error) string {
	for _, known := range []error{kv.ErrCompacted, kv.ErrFutureRevision} {
		if errors.Is(err, known) {
			return known.Error()
		}
	}
	return fmt.Sprint(err)
}

func (s *side) show(kvs []kv.KeyValue) string {
	out := ""
	for _, item := range kvs {
		out += fmt.Sprintf(" %q=%q (%d %d %d)", item.Key, item.Value, item.CreateRevision-s.base, item.ModRevision-s.base, item.Version)
	}
	return out
}

// begin watches and waits until the watch runs: one that is only about to begin may find its revision compacted.
func (s *side) begin(ctx context.Context) <-chan kv.WatchResponse {
	live := s.e.Watch(ctx, s.prefix, s.base+1)
	resp, err := s.e.Txn(ctx, nil, []kv.Op{{Key: s.prefix + "~begin"}})
	if err != nil {
		s.t.Fatal(err)
	}
	s.read(live, resp.Revision)
	s.base, s.compacted = resp.Revision, resp.Revision
	return live
}

// end writes a last key and returns its revision.
func (s *side) end() int64 {
	resp, err := s.e.Txn(context.Background(), nil, []kv.Op{{Key: s.prefix + "~end"}})
	if err != nil {
		s.t.Fatal(err)
	}
	return resp.Revision
}

// read shows all events up to a revision.
func (s *side) read(ch <-chan kv.WatchResponse, end int64) string {
	out := ""
	for resp := range ch {
		if resp.Err != nil {
			s.t.Fatal(resp.Err)
		}
		for _, ev := range resp.Events {
			out += fmt.Sprint(" ", ev.Type, s.show([]kv.KeyValue{ev.KV}))
		}
		if resp.Revision >= end {
			return out
		}
	}
	return out + " and then nothing"
}
