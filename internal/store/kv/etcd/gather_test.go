package etcd

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// slowLog takes a millisecond for what comes together.
type slowLog struct {
	api
	now, most, all atomic.Int32
}

func (s *slowLog) Txn(ctx context.Context, _ *pb.TxnRequest) (*pb.TxnResponse, error) {
	n := s.now.Add(1)
	defer s.now.Add(-1)
	s.all.Add(1)
	for {
		most := s.most.Load()
		if n <= most || s.most.CompareAndSwap(most, n) {
			break
		}
	}
	select {
	case <-time.After(time.Millisecond):
		return &pb.TxnResponse{}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func TestGathering(t *testing.T) {
	for _, tt := range []struct{ writers, milliseconds, most int }{
		{1, 1, 1},
		{freeWriters, 1, freeWriters},
		{freeWriters + 1, 2, freeWriters},
		{freeWriters + maxCohort, 2, maxCohort},
		{freeWriters + 3*maxCohort, 4, 2 * maxCohort},
	} {
		synctest.Test(t, func(t *testing.T) {
			log := &slowLog{}
			g := &gathering{api: log}
			began := time.Now()
			var wg sync.WaitGroup
			for range tt.writers {
				wg.Go(func() {
					if _, err := g.Txn(t.Context(), nil); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			if took := time.Since(began); took != time.Duration(tt.milliseconds)*time.Millisecond {
				t.Errorf("%d writers took %v", tt.writers, took)
			}
			if most := int(log.most.Load()); most > tt.most || int(log.all.Load()) != tt.writers {
				t.Errorf("%d writers: %d at once, %d in all", tt.writers, most, log.all.Load())
			}
		})
	}
}

// TestGatheringGivesUp: whoever gives up waits no longer and is in nobody's way, whenever that is.
func TestGatheringGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &slowLog{}
		g := &gathering{api: log}
		var wg sync.WaitGroup
		for range 300 {
			wg.Go(func() {
				time.Sleep(rand.N(5 * time.Millisecond))
				patience := rand.N(4 * time.Millisecond)
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				began := time.Now()
				_, err := g.Txn(ctx, nil)
				if took := time.Since(began); took > patience || (err != nil) != (ctx.Err() != nil) && took != patience {
					t.Errorf("%v after %v with a patience of %v", err, took, patience)
				}
			})
		}
		wg.Wait()
		if g.underWay != 0 || len(g.waiting) != 0 {
			t.Errorf("%d under way, %d wait", g.underWay, len(g.waiting))
		}
		began := time.Now()
		if _, err := g.Txn(t.Context(), nil); err != nil || time.Since(began) != time.Millisecond {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
}
