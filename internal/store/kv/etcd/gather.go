package etcd

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/pkg/v3/idutil"
	"go.etcd.io/etcd/pkg/v3/wait"
	"go.etcd.io/etcd/server/v3/etcdserver"
	"go.etcd.io/etcd/server/v3/etcdserver/apply"
	etcderrors "go.etcd.io/etcd/server/v3/etcdserver/errors"
	"go.etcd.io/etcd/server/v3/lease"
	"go.etcd.io/etcd/server/v3/storage"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

const (
	// freeWriters is how many at once are never made to wait for each other.
	freeWriters = 6
	// maxCohort is how many go together at most.
	maxCohort = 48
	// window is how long the first of those who wait does so at most.
	window = 2 * time.Millisecond
)

// gathering has transactions wait for each other when many write at once, and hands them to Raft in one message, as a follower forwards several: they are synced to the log
// together. Each sync costs as much CPU time as everything else that etcd does with a few entries, and is so short here that left alone only two or three entries come while
// one is under way. How many to wait for is learnt from how many there are: as many as two thirds of those who were writing at once lately, since the others wait for
// something else just now. Nothing is promised earlier or in another order: a transaction that waits hasn't been proposed.
type gathering struct {
	api     // what isn't a simple write goes here
	log     raftLog
	results wait.Wait // etcd's own: what became of an entry is told here, by its request's number
	ids     *idutil.Generator
	quota   func(ctx context.Context, r *pb.TxnRequest) error
	limit   int           // of a request, in bytes
	timeout time.Duration // after which nobody knows what became of a request
	stopped <-chan struct{}

	mu      sync.Mutex
	waiting []*proposal // guarded by mu
	late    *time.Timer // runs out when the first of them has waited for long enough; guarded by mu
	present int         // how many write, those who wait included; guarded by mu
	most    int         // how many that were at most since the last went; guarded by mu
	usual   float64     // how many that are lately; guarded by mu
}

// raftLog takes entries, all or none, and tells later what became of them. It fails when it has ended.
type raftLog interface {
	propose(entries []*raftpb.Entry) error
}

// proposal is a transaction on its way.
type proposal struct {
	id    uint64
	entry raftpb.Entry
}

// newGathering is the way to a running server.
func newGathering(s *etcdserver.EtcdServer, otherwise api) (*gathering, error) {
	results, err := resultsOf(s)
	if err != nil {
		return nil, err
	}
	quota := storage.NewBackendQuota(s.Logger(), s.Cfg.QuotaBackendBytes, s.Backend(), "kv")
	return &gathering{
		api: otherwise, log: member{s}, results: results,
		// The server's own numbers begin with the number of the member.
		ids:   idutil.NewGenerator(uint16(s.MemberID())+1, time.Now()),
		limit: int(s.Cfg.MaxRequestBytes), timeout: s.Cfg.ReqTimeout(), stopped: s.StopNotify(),
		quota: func(ctx context.Context, r *pb.TxnRequest) error {
			if quota.Available(r) {
				return nil
			}
			if _, err := s.Alarm(ctx, &pb.AlarmRequest{MemberID: uint64(s.MemberID()), Action: pb.AlarmRequest_ACTIVATE, Alarm: pb.AlarmType_NOSPACE}); err != nil {
				return err
			}
			return rpctypes.ErrGRPCNoSpace
		},
	}, nil
}

// member is the Raft of a server.
type member struct{ server *etcdserver.EtcdServer }

// propose waits only while Raft takes other messages: a lone member leads for as long as it runs.
func (m member) propose(entries []*raftpb.Entry) error {
	id := uint64(m.server.MemberID())
	return m.server.Process(context.Background(), &raftpb.Message{Type: raftpb.MsgProp.Enum(), To: &id, Entries: entries})
}

// Txn carries out a transaction.
func (g *gathering) Txn(ctx context.Context, r *pb.TxnRequest) (*pb.TxnResponse, error) {
	if !isSimple(r) {
		return g.api.Txn(ctx, r)
	}
	if err := g.quota(ctx, r); err != nil {
		return nil, err
	}
	p := &proposal{id: g.ids.Next()}
	var err error
	if p.entry.Data, err = proto.Marshal(&pb.InternalRaftRequest{Header: &pb.RequestHeader{ID: p.id}, Txn: r}); err != nil {
		return nil, err
	}
	if len(p.entry.Data) > g.limit {
		return nil, rpctypes.ErrGRPCRequestTooLarge
	}
	result := g.results.Register(p.id)
	g.enter(p)
	timeout := time.NewTimer(g.timeout)
	defer timeout.Stop()
	select {
	case r := <-result:
		g.leave()
		return answer(r.(*apply.Result))
	case <-ctx.Done():
		err = ctx.Err()
	case <-timeout.C:
		err = rpctypes.ErrGRPCTimeout
	case <-g.stopped:
		err = rpctypes.ErrGRPCStopped
	}
	g.giveUp(p)
	g.results.Trigger(p.id, nil) // nobody waits for it
	return nil, err
}

// isSimple says that a transaction is one that etcd's server would find nothing wrong with before it proposes it: at most one guard, and one write.
func isSimple(r *pb.TxnRequest) bool {
	if len(r.GetCompare()) > 1 || len(r.GetSuccess()) != 1 || len(r.GetFailure()) > 1 {
		return false
	}
	op := r.Success[0]
	return len(op.GetRequestPut().GetKey()) > 0 || len(op.GetRequestDeleteRange().GetKey()) > 0
}

// answer is what became of a transaction, with errors as etcd's API has them.
func answer(r *apply.Result) (*pb.TxnResponse, error) {
	switch {
	case errors.Is(r.Err, etcderrors.ErrNoSpace):
		return nil, rpctypes.ErrGRPCNoSpace
	case errors.Is(r.Err, lease.ErrLeaseNotFound):
		return nil, rpctypes.ErrGRPCLeaseNotFound
	case r.Err != nil:
		return nil, r.Err
	}
	return r.Resp.(*pb.TxnResponse), nil
}

// enter proposes a transaction with those that wait, or has it wait with them.
func (g *gathering) enter(p *proposal) {
	g.mu.Lock()
	g.present++
	g.most = max(g.most, g.present)
	g.usual = max(g.usual, float64(g.present))
	g.waiting = append(g.waiting, p)
	if g.usual <= freeWriters || len(g.waiting) >= min(maxCohort, int(g.usual*2/3)) {
		g.letGo()
		return
	}
	if len(g.waiting) == 1 {
		if g.late == nil {
			g.late = time.AfterFunc(window, g.waitedEnough)
		} else {
			g.late.Reset(window)
		}
	}
	g.mu.Unlock()
}

// waitedEnough lets those go who wait, and expects fewer from now on.
func (g *gathering) waitedEnough() {
	g.mu.Lock()
	if len(g.waiting) == 0 {
		g.mu.Unlock()
		return
	}
	g.usual = max(g.usual/2, float64(g.most))
	g.letGo()
}

// letGo proposes all that wait. It unlocks mu.
func (g *gathering) letGo() {
	together := g.waiting
	g.waiting = nil
	g.most = g.present
	g.usual *= 0.98 // those who stopped writing are forgotten
	g.mu.Unlock()
	g.propose(together)
}

// leave is the end of a transaction.
func (g *gathering) leave() {
	g.mu.Lock()
	g.present--
	g.mu.Unlock()
}

// giveUp is the end of a transaction of which nobody wants to know what becomes. It isn't proposed if it hasn't been.
func (g *gathering) giveUp(p *proposal) {
	g.mu.Lock()
	g.present--
	if i := slices.Index(g.waiting, p); i >= 0 {
		g.waiting = slices.Delete(g.waiting, i, i+1)
	}
	g.mu.Unlock()
}

// propose hands transactions to Raft.
func (g *gathering) propose(together []*proposal) {
	entries := make([]*raftpb.Entry, len(together))
	for i, p := range together {
		entries[i] = &p.entry
	}
	if err := g.log.propose(entries); err != nil {
		for _, p := range together {
			g.results.Trigger(p.id, &apply.Result{Err: rpctypes.ErrGRPCStopped})
		}
	}
}
