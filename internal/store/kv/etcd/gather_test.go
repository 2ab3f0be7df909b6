package etcd

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/pkg/v3/idutil"
	"go.etcd.io/etcd/pkg/v3/wait"
	"go.etcd.io/etcd/server/v3/etcdserver/apply"
	etcderrors "go.etcd.io/etcd/server/v3/etcdserver/errors"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/celox/celox/internal/store/kv"
)

// slowLog takes a millisecond for what comes together. It says of what it was given how it went: err.
type slowLog struct {
	results wait.Wait
	err     error
	ended   bool

	wg                   sync.WaitGroup
	proposals, all, most atomic.Int64
}

func (s *slowLog) propose(entries []*raftpb.Entry) error {
	if s.ended {
		return errors.New("it is over")
	}
	s.proposals.Add(1)
	s.all.Add(int64(len(entries)))
	for n := int64(len(entries)); ; {
		if most := s.most.Load(); n <= most || s.most.CompareAndSwap(most, n) {
			break
		}
	}
	s.wg.Go(func() {
		time.Sleep(time.Millisecond)
		for _, e := range entries {
			var r pb.InternalRaftRequest
			if err := proto.Unmarshal(e.Data, &r); err != nil {
				panic(err)
			}
			s.results.Trigger(r.Header.ID, &apply.Result{Resp: &pb.TxnResponse{Succeeded: string(r.Txn.Success[0].GetRequestPut().Key) == "key"}, Err: s.err})
		}
	})
	return nil
}

func gatheringOver(log *slowLog) *gathering {
	log.results = wait.New()
	return &gathering{
		log: log, results: log.results, ids: idutil.NewGenerator(1, time.Now()), limit: 1000, timeout: time.Minute,
		room:  func(context.Context, int) error { return nil },
		blind: kv.Blind,
	}
}

// idle fails unless nobody is left behind.
func idle(t *testing.T, g *gathering, log *slowLog) {
	t.Helper()
	log.wg.Wait()
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.present != 0 || len(g.waiting) != 0 {
		t.Errorf("%d are there, %d wait", g.present, len(g.waiting))
	}
}

// TestGathering: few go at once, many together.
func TestGathering(t *testing.T) {
	for _, tt := range []struct {
		writers, each int
		think         time.Duration // between two writes of one, at most
		together      int           // how many go together on average, at least
		takes         time.Duration // at most
	}{
		{1, 50, 0, 1, 50 * time.Millisecond},
		{freeWriters, 50, 0, 1, 50 * time.Millisecond},
		{8, 50, time.Millisecond, 3, 200 * time.Millisecond},
		{30, 100, 4 * time.Millisecond, 10, 800 * time.Millisecond},
		{200, 100, 4 * time.Millisecond, 30, 800 * time.Millisecond},
	} {
		synctest.Test(t, func(t *testing.T) {
			log := &slowLog{}
			g := gatheringOver(log)
			began := time.Now()
			var wg sync.WaitGroup
			for range tt.writers {
				wg.Go(func() {
					for range tt.each {
						if r, err := g.write(t.Context(), kv.Guard{Key: "key"}, kv.Op{Key: "key"}); err != nil || !r.Succeeded {
							t.Errorf("%v, %v", r, err)
						}
						if tt.think > 0 {
							time.Sleep(rand.N(tt.think))
						}
					}
				})
			}
			wg.Wait()
			took := time.Since(began)
			idle(t, g, log)
			if n := log.all.Load(); n != int64(tt.writers*tt.each) || log.most.Load() > maxCohort {
				t.Errorf("%d writers: %d in all, %d together", tt.writers, n, log.most.Load())
			}
			if n := log.all.Load() / log.proposals.Load(); n < int64(tt.together) || took > tt.takes {
				t.Errorf("%d writers: %d together on average in %v", tt.writers, n, took)
			}
			// A writer who is alone afterwards soon doesn't wait for the others any more.
			for range 8 {
				if _, err := g.write(t.Context(), kv.Guard{Key: "key"}, kv.Op{Key: "key"}); err != nil {
					t.Error(err)
				}
			}
			began = time.Now()
			if _, err := g.write(t.Context(), kv.Guard{Key: "key"}, kv.Op{Key: "key"}); err != nil || time.Since(began) != time.Millisecond {
				t.Errorf("alone after %d writers: %v after %v", tt.writers, err, time.Since(began))
			}
			idle(t, g, log)
		})
	}
}

// TestCrowd: a crowd is told of once when it comes, and once when it has gone.
func TestCrowd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &slowLog{}
		g := gatheringOver(log)
		var told []bool
		g.crowded = func(now bool) { told = append(told, now) }
		// In rounds: a crowd of which some are done before the others would be none at its end.
		write := func(writers, rounds int) {
			for range rounds {
				var wg sync.WaitGroup
				for range writers {
					wg.Go(func() {
						if _, err := g.write(t.Context(), kv.Guard{Key: "key"}, kv.Op{Key: "key"}); err != nil {
							t.Error(err)
						}
					})
				}
				wg.Wait()
			}
		}
		for _, step := range []struct {
			writers, rounds int
			want            []bool
		}{
			{crowd - 2, 100, nil},
			{2 * crowd, 100, []bool{true}},
			{1, 200, []bool{true, false}},
			{2 * crowd, 100, []bool{true, false, true}},
		} {
			if write(step.writers, step.rounds); !slices.Equal(told, step.want) {
				t.Errorf("after %d writers: told %v, want %v", step.writers, told, step.want)
			}
		}
		g.end()
		g.end()
		if want := []bool{true, false, true, false}; !slices.Equal(told, want) {
			t.Errorf("at the end: told %v, want %v", told, want)
		}
		idle(t, g, log)
	})
}

// TestGatheringGivesUp: whoever gives up waits no longer and is in nobody's way, whenever that is.
func TestGatheringGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &slowLog{}
		g := gatheringOver(log)
		g.blind = time.Millisecond / 2
		var gaveUp atomic.Int32
		var wg sync.WaitGroup
		for range 300 {
			wg.Go(func() {
				time.Sleep(rand.N(5 * time.Millisecond))
				patience := rand.N(4 * time.Millisecond)
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				began := time.Now()
				_, err := g.write(ctx, kv.Guard{Key: "key"}, kv.Op{Key: "key"})
				if took := time.Since(began); took > max(patience, window+g.blind) || err != nil && (!errors.Is(err, context.DeadlineExceeded) || took < patience) {
					t.Errorf("%v after %v with a patience of %v", err, took, patience)
				}
				if err != nil {
					gaveUp.Add(1)
				}
			})
		}
		wg.Wait()
		if gaveUp.Load() == 0 {
			t.Error("nobody gave up")
		}
		idle(t, g, log)
	})
}

func TestGatheringFails(t *testing.T) {
	for _, tt := range []struct {
		name   string
		log    *slowLog
		value  []byte
		change func(*gathering)
		want   error
	}{
		{"the log has ended", &slowLog{ended: true}, nil, nil, rpctypes.ErrGRPCStopped},
		{"the server stops meanwhile", &slowLog{}, nil, func(g *gathering) {
			c := make(chan struct{})
			close(c)
			g.stopped = c
		}, rpctypes.ErrGRPCStopped},
		{"nothing comes", &slowLog{}, nil, func(g *gathering) { g.timeout = time.Microsecond }, rpctypes.ErrGRPCTimeout},
		{"too large", &slowLog{}, make([]byte, 1000), nil, rpctypes.ErrGRPCRequestTooLarge},
		{"no room", &slowLog{}, nil, func(g *gathering) {
			g.room = func(context.Context, int) error { return rpctypes.ErrGRPCNoSpace }
		}, rpctypes.ErrGRPCNoSpace},
		{"no room when it is applied", &slowLog{err: etcderrors.ErrNoSpace}, nil, nil, rpctypes.ErrGRPCNoSpace},
		{"another error", &slowLog{err: context.DeadlineExceeded}, nil, nil, context.DeadlineExceeded},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := gatheringOver(tt.log)
				g.blind = 0
				if tt.change != nil {
					tt.change(g)
				}
				if _, err := g.write(t.Context(), kv.Guard{Key: "key"}, kv.Op{Key: "key", Value: tt.value}); !errors.Is(err, tt.want) {
					t.Errorf("%v instead of %v", err, tt.want)
				}
				idle(t, g, tt.log)
			})
		})
	}
}

// TestEntry: what is encoded here is what etcd's own library makes of the transaction.
func TestEntry(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		guard := kv.Guard{Key: rapid.StringN(1, -1, 300).Draw(t, "guard"), ModRevision: rapid.Int64Min(0).Draw(t, "revision")}
		op := kv.Op{Key: rapid.StringN(1, -1, 300).Draw(t, "key"), Delete: rapid.Bool().Draw(t, "delete")}
		if !op.Delete {
			op.Value = []byte(rapid.StringN(0, -1, 20_000).Draw(t, "value"))
			op.Lease = kv.LeaseID(rapid.Int64().Draw(t, "lease"))
		}
		id := rapid.Uint64Min(1).Draw(t, "id")
		var got pb.InternalRaftRequest
		if err := proto.Unmarshal(appendEntry(nil, id, guard, op), &got); err != nil {
			t.Fatal(err)
		}
		want := &pb.InternalRaftRequest{Header: &pb.RequestHeader{ID: id}, Txn: request([]kv.Guard{guard}, []kv.Op{op})}
		if !proto.Equal(&got, want) {
			t.Fatalf("got %v\nwant %v", &got, want)
		}
	})
}

func BenchmarkEntry(b *testing.B) {
	guard, op := kv.Guard{Key: "/registry/pods/default/web-0", ModRevision: 123456}, kv.Op{Key: "/registry/pods/default/web-0", Value: make([]byte, 1500)}
	b.Run("here", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			appendEntry(make([]byte, 0, 3*len(op.Key)+len(op.Value)+64), 1<<60, guard, op)
		}
	})
	b.Run("library", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := proto.Marshal(&pb.InternalRaftRequest{Header: &pb.RequestHeader{ID: 1 << 60}, Txn: request([]kv.Guard{guard}, []kv.Op{op})}); err != nil {
				b.Fatal(err)
			}
		}
	})
}
