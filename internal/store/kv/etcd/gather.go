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

	"github.com/celox/celox/internal/store/kv"
)

const (
	// freeWriters is how many at once are never made to wait for each other.
	freeWriters = 6
	// crowd is how many at once are a crowd, as Config.Crowded has it; half as many are none any more.
	crowd = 20
	// maxCohort is how many go together at most.
	maxCohort = 48
	// window is how long the first of those who wait does so at most.
	window = 2 * time.Millisecond
	// maxReused is the largest entry whose memory is used again, in bytes.
	maxReused = 32 << 10
	// overhead is what etcd reckons a key takes besides itself and its value.
	overhead = 256
)

// gathering has transactions wait for each other when many write at once, and hands them to Raft in one message, as a follower forwards several: they are synced to the log
// together. Each sync costs as much CPU time as everything else that etcd does with a few entries, and is so short here that left alone only two or three entries come while
// one is under way. How many to wait for is learnt from how many there are: as many as two thirds of those who were writing at once lately, since the others wait for
// something else just now. Nothing is promised earlier or in another order: a transaction that waits hasn't been proposed.
type gathering struct {
	log     raftLog
	results wait.Wait // etcd's own: what became of an entry is told here, by its request's number
	ids     *idutil.Generator
	room    func(ctx context.Context, bytes int) error // fails when the database is full
	limit   int                                        // of a request, in bytes
	timeout time.Duration                              // after which nobody knows what became of a request
	stopped <-chan struct{}
	crowded func(bool) // may be nil
	timers  kv.Timers
	memory  sync.Pool     // of *[]byte: what entries were written in
	blind   time.Duration // how long a transaction waits for nothing but what becomes of it

	telling sync.Mutex // taken before mu
	told    bool       // what crowded was told last; guarded by telling

	mu      sync.Mutex
	waiting []*proposal // guarded by mu
	present int         // how many write, those who wait included; guarded by mu
	most    int         // how many that were at most since the last went; guarded by mu
	usual   float64     // how many that are lately; guarded by mu
	many    bool        // whether that is a crowd; guarded by mu
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
func newGathering(s *etcdserver.EtcdServer, crowded func(bool)) (*gathering, error) {
	results, err := resultsOf(s)
	if err != nil {
		return nil, err
	}
	quota := storage.NewBackendQuota(s.Logger(), s.Cfg.QuotaBackendBytes, s.Backend(), "kv")
	return &gathering{
		log: member{s}, results: results, crowded: crowded, blind: kv.Blind,
		// The server's own numbers begin with the number of the member.
		ids:   idutil.NewGenerator(uint16(s.MemberID())+1, time.Now()),
		limit: int(s.Cfg.MaxRequestBytes), timeout: s.Cfg.ReqTimeout(), stopped: s.StopNotify(),
		room: func(ctx context.Context, bytes int) error {
			if quota.Remaining() > int64(bytes) {
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

// write carries out a transaction of one guard and one op, neither of them with an empty key: one that etcd's server would find nothing wrong with before it proposes it.
func (g *gathering) write(ctx context.Context, guard kv.Guard, op kv.Op) (*pb.TxnResponse, error) {
	if !op.Delete {
		if err := g.room(ctx, len(op.Key)+len(op.Value)+overhead); err != nil {
			return nil, err
		}
	}
	p := &proposal{id: g.ids.Next()}
	memory, _ := g.memory.Get().(*[]byte)
	if memory == nil {
		memory = new([]byte)
	}
	*memory = appendEntry(slices.Grow((*memory)[:0], 3*len(op.Key)+len(op.Value)+64), p.id, guard, op)
	p.entry.Data = *memory
	if len(p.entry.Data) > g.limit {
		return nil, rpctypes.ErrGRPCRequestTooLarge
	}
	result := g.results.Register(p.id)
	r, err := g.wait(ctx, p, result, g.enter(p))
	if err == nil {
		g.leave()
		if cap(*memory) <= maxReused {
			g.memory.Put(memory) // Raft has made itself a copy; when nobody knows what became of the entry it may not have yet
		}
		return answer(r.(*apply.Result))
	}
	g.giveUp(p)
	g.results.Trigger(p.id, nil) // nobody waits for it
	return nil, err
}

// wait returns what became of a transaction. If it leads it lets those who wait with it go in time.
func (g *gathering) wait(ctx context.Context, p *proposal, result <-chan any, leads bool) (any, error) {
	patience := g.blind
	if leads {
		patience = window
	}
	timer := g.timers.Start(patience)
	defer g.timers.Stop(timer)
	select {
	case r := <-result:
		return r, nil
	case <-timer.C:
	}
	if leads {
		g.waitedEnough(p)
	}
	timer.Reset(g.timeout)
	select {
	case r := <-result:
		return r, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-g.stopped:
		return nil, rpctypes.ErrGRPCStopped
	case <-timer.C:
		return nil, rpctypes.ErrGRPCTimeout
	}
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

// enter proposes a transaction with those that wait, or has it wait with them. It says whether it is the first of them, which has to call waitedEnough.
func (g *gathering) enter(p *proposal) (leads bool) {
	g.mu.Lock()
	g.present++
	g.most = max(g.most, g.present)
	g.usual = max(g.usual, float64(g.present))
	g.waiting = append(g.waiting, p)
	if g.usual <= freeWriters || len(g.waiting) >= min(maxCohort, int(g.usual*2/3)) {
		g.letGo()
		return false
	}
	leads = len(g.waiting) == 1
	g.mu.Unlock()
	return leads
}

// waitedEnough lets those go who still wait with the first of them, and expects fewer from now on.
func (g *gathering) waitedEnough(first *proposal) {
	g.mu.Lock()
	if len(g.waiting) == 0 || g.waiting[0] != first {
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
	was := g.many
	g.many = g.usual >= crowd || was && g.usual >= crowd/2
	changed := was != g.many
	g.mu.Unlock()
	g.propose(together)
	if changed {
		g.tell()
	}
}

// tell says whether there is a crowd, if that is news.
func (g *gathering) tell() {
	if g.crowded == nil {
		return
	}
	g.telling.Lock()
	defer g.telling.Unlock()
	g.mu.Lock()
	now := g.many
	g.mu.Unlock()
	if now != g.told {
		g.told = now
		g.crowded(now)
	}
}

// end is to be called when nobody writes any more.
func (g *gathering) end() {
	g.mu.Lock()
	g.many = false
	g.mu.Unlock()
	g.tell()
}

// leave is the end of a transaction.
func (g *gathering) leave() {
	g.mu.Lock()
	g.present--
	g.mu.Unlock()
}

// giveUp is the end of a transaction of which nobody wants to know what becomes. It isn't proposed if it hasn't been; if others wait for it to say when they may go, they go.
func (g *gathering) giveUp(p *proposal) {
	g.mu.Lock()
	g.present--
	i := slices.Index(g.waiting, p)
	if i >= 0 {
		g.waiting = slices.Delete(g.waiting, i, i+1)
	}
	if i == 0 && len(g.waiting) > 0 {
		g.letGo()
		return
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
