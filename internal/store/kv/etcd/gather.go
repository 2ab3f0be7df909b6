package etcd

import (
	"context"
	"slices"
	"sync"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

const (
	// freeWriters is how many transactions may be under way without waiting for each other: few writers find the log idle, and are served at once.
	freeWriters = 6
	// maxCohort is how many go together at most: what waits behind them has to wait as long as they take.
	maxCohort = 48
	// restOfCohort is which part of those that went together may still be under way when the next are let go, as a divisor. With a half, callers that
	// write one thing after another are cut into small cohorts, of which each syncs the log once or twice.
	restOfCohort = 4
)

// gathering lets transactions wait for those that are under way when there are many, and then go together. The log is synced, and its reader woken, for as many entries as
// come meanwhile; without this that is two or three where the disk is fast, and syncing costs as much as everything else that is done with them. Nothing is promised
// earlier or in another order: a transaction that waits hasn't been proposed.
type gathering struct {
	api

	mu       sync.Mutex
	underWay int             // guarded by mu
	cohort   int             // how many were under way when the last were let go together; guarded by mu
	waiting  []chan struct{} // closed when it is one's turn; guarded by mu
}

// Txn carries out a transaction when it is its turn.
func (g *gathering) Txn(ctx context.Context, r *pb.TxnRequest) (*pb.TxnResponse, error) {
	if err := g.enter(ctx); err != nil {
		return nil, err
	}
	defer g.leave()
	return g.api.Txn(ctx, r)
}

// enter returns when the transaction may go.
func (g *gathering) enter(ctx context.Context) error {
	g.mu.Lock()
	if g.underWay < freeWriters && len(g.waiting) == 0 {
		g.underWay++
		g.mu.Unlock()
		return nil
	}
	turn := make(chan struct{})
	g.waiting = append(g.waiting, turn)
	g.mu.Unlock()
	select {
	case <-turn:
		return nil
	case <-ctx.Done():
	}
	g.mu.Lock()
	i := slices.Index(g.waiting, turn)
	if i >= 0 {
		g.waiting = slices.Delete(g.waiting, i, i+1)
	}
	g.mu.Unlock()
	if i < 0 {
		g.leave() // it was its turn just now
	}
	return ctx.Err()
}

// leave is the end of a transaction. When most of those that went together are through, the next may go.
func (g *gathering) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.underWay--
	if len(g.waiting) == 0 || g.underWay > g.cohort/restOfCohort {
		return
	}
	n := min(len(g.waiting), maxCohort)
	for _, turn := range g.waiting[:n] {
		close(turn)
	}
	g.waiting = slices.Delete(g.waiting, 0, n)
	g.underWay += n
	g.cohort = g.underWay
}
