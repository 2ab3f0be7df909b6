package policy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/runtime"
	corelisters "k8s.io/client-go/listers/core/v1"
	networkinglisters "k8s.io/client-go/listers/networking/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/celox/celox/internal/client/informers"
)

const (
	// replaceAbove is how many changed elements are cheaper made by building everything anew.
	replaceAbove = 50_000
	retryFirst   = time.Second
	retryLast    = 30 * time.Second
)

// Datapath is what carries packets. One goroutine uses it.
type Datapath interface {
	// Replace holds the datapath to want, whatever was there. What is in force stays so until then.
	Replace(want *Desired) error
	// Update does the same where no more than dirty is different from the last time. After an error only Replace helps.
	Update(want *Desired, dirty *Dirty) error
	// Stands reports whether something of ours is in force wherever want restricts somebody.
	Stands(want *Desired) (bool, error)
	// Close ends our part; what is in force stays so.
	Close() error
}

// Sandbox is one of a pod of this node, with its addresses.
type Sandbox struct {
	ID, Namespace, Name string
	Addrs               []netip.Addr
	// Unseen is why the datapath does not see the packets of this one; nil: it does.
	Unseen error
}

// Config is what New needs.
type Config struct {
	NodeName string
	// Informers of policies, namespaces and nodes; the caller starts them.
	Informers *informers.Factory
	// Own has the pods of this node, or all; the caller starts it.
	Own cache.SharedIndexInformer
	// Peers has the pods of all nodes. It is run when the first policy comes. Nil: Own has them all.
	Peers cache.SharedIndexInformer
	// Cluster has policies of the cluster; nil if there can be none.
	Cluster *ClusterPolicies
	// Names has the addresses of domain names; nil if nobody learns them.
	Names *Names
	// Sandboxes are those that there are at the start.
	Sandboxes []Sandbox
	// Datapath is closed when Run ends.
	Datapath Datapath
	// Keep is a file for what is in force, from which it is put back while the API does not say what should be; "" is none.
	Keep string
	// Tampering is signalled when somebody else changed what the datapath made; nil never is.
	Tampering <-chan struct{}
	// Broken is why the datapath does nothing, which users of policies are told; nil: it does.
	Broken error
	// SCTP says whether the datapath sees ports of SCTP.
	SCTP bool
	// Warn tells the users of a policy, once, that a part of it is not enforced.
	Warn func(ctx context.Context, policy runtime.Object, message string)
	Log  *slog.Logger
}

// Enforcer keeps a datapath to what the API says.
type Enforcer struct {
	cfg        Config
	policies   networkinglisters.NetworkPolicyLister
	namespaces corelisters.NamespaceLister
	nodes      corelisters.NodeLister
	own, peers corelisters.PodLister // peers is nil until they matter
	synced     []cache.InformerSynced
	wake       chan struct{} // capacity 1
	working    chan struct{} // closed when everything is in force for the first time
	warned     map[name]string
	unseen     map[string]*unseen // sandboxes whose packets the datapath does not see
	before     *memoir            // what an earlier process had in force, until this one has something in force; nil if nothing is known of it

	mu      sync.Mutex
	pending pending // guarded by mu
	failing error   // guarded by mu: why what changes does not come into force at once; nil: it does
}

// pending is what changed since the last look.
type pending struct {
	namespaces map[string]struct{}
	pods       map[name]struct{}
	policies   map[name]struct{}
	cluster    map[string]struct{}
	nodes      map[string]struct{}
	names      map[string]struct{} // of domains
	boxes      []boxChange
	waiting    []chan struct{} // closed when what came before is in force
	answers    []chan error    // which have room for one: whether what came before is in force
}

// unseen is a sandbox whose packets the datapath does not see. That is told to the users of its pod, once, when a policy selects it.
type unseen struct {
	pod  name
	why  error
	told bool
}

type boxChange struct {
	Sandbox
	gone bool
}

func newPending() pending {
	return pending{
		namespaces: map[string]struct{}{}, pods: map[name]struct{}{}, policies: map[name]struct{}{}, cluster: map[string]struct{}{}, nodes: map[string]struct{}{},
		names: map[string]struct{}{},
	}
}

// New registers the enforcer with the informers.
func New(cfg Config) (*Enforcer, error) {
	policies, namespaces, nodes := cfg.Informers.Networking().V1().NetworkPolicies(), cfg.Informers.Core().V1().Namespaces(), cfg.Informers.Core().V1().Nodes()
	e := &Enforcer{
		cfg: cfg, policies: policies.Lister(), namespaces: namespaces.Lister(), nodes: nodes.Lister(), own: corelisters.NewPodLister(cfg.Own.GetIndexer()),
		wake: make(chan struct{}, 1), working: make(chan struct{}), warned: map[name]string{}, unseen: map[string]*unseen{}, pending: newPending(),
	}
	for _, s := range cfg.Sandboxes {
		e.pending.boxes = append(e.pending.boxes, boxChange{Sandbox: s})
	}
	e.failing = errNotYet
	for _, w := range []struct {
		informer cache.SharedIndexInformer
		changed  func(obj any)
	}{
		{policies.Informer(), func(obj any) {
			if p, ok := obj.(*networkingv1.NetworkPolicy); ok {
				e.note(func(w *pending) { w.policies[name{p.Namespace, p.Name}] = struct{}{} })
			}
		}},
		{namespaces.Informer(), func(obj any) {
			if n, ok := obj.(*corev1.Namespace); ok {
				e.note(func(w *pending) { w.namespaces[n.Name] = struct{}{} })
			}
		}},
		{cfg.Own, e.podChanged},
		{nodes.Informer(), func(obj any) {
			if n, ok := obj.(*corev1.Node); ok {
				e.note(func(w *pending) { w.nodes[n.Name] = struct{}{} })
			}
		}},
	} {
		synced, err := follow(w.informer, w.changed)
		if err != nil {
			return nil, err
		}
		e.synced = append(e.synced, synced)
	}
	if cfg.Cluster != nil {
		cfg.Cluster.notify(func(n string) { e.note(func(w *pending) { w.cluster[n] = struct{}{} }) })
		e.synced = append(e.synced, cfg.Cluster.synced)
	}
	return e, nil
}

func follow(informer cache.SharedIndexInformer, changed func(obj any)) (cache.InformerSynced, error) {
	registration, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    changed,
		UpdateFunc: func(_, obj any) { changed(obj) },
		DeleteFunc: func(obj any) {
			if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = gone.Obj
			}
			changed(obj)
		},
	})
	if err != nil {
		return nil, fmt.Errorf("network policy: %w", err)
	}
	return registration.HasSynced, nil
}

func (e *Enforcer) podChanged(obj any) {
	if p, ok := obj.(*corev1.Pod); ok {
		e.note(func(w *pending) { w.pods[name{p.Namespace, p.Name}] = struct{}{} })
	}
}

func (e *Enforcer) note(add func(*pending)) {
	e.mu.Lock()
	add(&e.pending)
	e.mu.Unlock()
	e.poke()
}

func (e *Enforcer) poke() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// Attach returns when the rules of a new sandbox are in force. The pod must be in the informer of this node's pods; one that is not is shut in, if there is any policy that might select it.
// It waits for the policies, if they have not been read yet, as long as ctx lets it.
func (e *Enforcer) Attach(ctx context.Context, s Sandbox) error {
	done := make(chan struct{})
	e.note(func(w *pending) {
		w.boxes = append(w.boxes, boxChange{Sandbox: s})
		w.pods[name{s.Namespace, s.Name}] = struct{}{} // as it is now, and not as when its event comes
		w.waiting = append(w.waiting, done)
	})
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("network policy: the rules of pod %s/%s are not in force yet: %w", s.Namespace, s.Name, ctx.Err())
	}
}

// Detach says that a sandbox is gone. It doesn't wait.
func (e *Enforcer) Detach(id string) {
	e.note(func(w *pending) { w.boxes = append(w.boxes, boxChange{Sandbox: Sandbox{ID: id}, gone: true}) })
}

// put returns when the addresses of a domain name are in force.
func (e *Enforcer) put(ctx context.Context, name string) error {
	done := make(chan error, 1)
	e.mu.Lock()
	e.pending.names[name] = struct{}{}
	failing := e.failing
	if failing == nil {
		e.pending.answers = append(e.pending.answers, done)
	}
	e.mu.Unlock()
	e.poke()
	if failing != nil {
		return failing
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// applied tells who waits for the addresses of names how it went.
func (e *Enforcer) applied(err error, answers []chan error) {
	e.mu.Lock()
	e.failing = err
	if err != nil { // nobody else is to wait
		answers = append(answers, e.pending.answers...)
		e.pending.answers = nil
	}
	e.mu.Unlock()
	for _, done := range answers {
		done <- err
	}
}

// Working is closed when the policies that there were at the start are in force.
func (e *Enforcer) Working() <-chan struct{} { return e.working }

// Run works until ctx ends. What is in force stays so.
func (e *Enforcer) Run(ctx context.Context) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	var background sync.WaitGroup
	defer func() {
		cancel()
		background.Wait()
		err = errors.Join(err, e.cfg.Datapath.Close())
	}()
	if e.cfg.Cluster != nil {
		background.Go(func() {
			if err := e.cfg.Cluster.run(ctx); err != nil {
				e.cfg.Log.Error("network policy: policies of the cluster are not followed any more", "err", err)
			}
		})
	}
	if names := e.cfg.Names; names != nil {
		names.start(e.put)
		defer names.start(nil)
		for _, n := range names.all() { // of an earlier process, and those that came meanwhile
			e.note(func(w *pending) { w.names[n] = struct{}{} })
		}
		background.Go(func() { names.run(ctx, func(n string) { e.note(func(w *pending) { w.names[n] = struct{}{} }) }) })
	}
	if e.cfg.Keep != "" {
		if e.before, err = recall(e.cfg.Keep); err != nil {
			e.cfg.Log.Warn("network policy: pods whose rules are gone are shut in until the API can be asked", "err", err)
		}
	}
	if !e.await(ctx, e.synced...) {
		return nil
	}
	s := newState()
	k := newKeeper(e.cfg.Keep)
	defer e.keep(k, s)
	var waiting []chan struct{}
	var answers []chan error
	whole, backoff := true, retryFirst
	var retry <-chan time.Time
	for {
		took := e.take(ctx, &background, s)
		waiting, answers = append(waiting, took.waiting...), append(answers, took.answers...)
		if e.peers == nil && s.anyPolicy() && e.cfg.Broken == nil {
			if e.cfg.Peers == nil {
				e.peers = e.own
				for _, obj := range e.cfg.Own.GetStore().List() {
					e.podChanged(obj)
				}
			} else if e.peers, err = e.followPeers(ctx, &background); err != nil || ctx.Err() != nil {
				return err
			}
			continue // with them
		}
		dirty := s.settle()
		e.mention(s)
		if !dirty.empty() || whole {
			k.changed()
		}
		err := e.apply(s.desired, dirty, whole)
		e.applied(err, answers)
		answers = nil
		if err != nil {
			e.cfg.Log.Error("network policy: will try again", "after", backoff, "err", err)
			whole, retry, backoff = true, time.After(backoff), min(2*backoff, retryLast)
		} else {
			whole, retry, backoff = false, nil, retryFirst
			e.before = nil
			e.warnUnseen(ctx, &background, s)
			for _, done := range waiting {
				close(done)
			}
			waiting = nil
			select {
			case <-e.working:
			default:
				close(e.working)
			}
		}
		for more := false; !more; {
			select {
			case <-ctx.Done():
				return nil
			case <-k.due:
				e.keep(k, s)
			case <-e.news(retry):
				more = true
			case <-retry:
				more = true
			case <-e.cfg.Tampering:
				e.cfg.Log.Warn("network policy: somebody else changed the rules; they are made again")
				whole, more = true, true
			}
		}
	}
}

// news has a signal when something changed. What failed is not tried with each change.
func (e *Enforcer) news(retry <-chan time.Time) <-chan struct{} {
	if retry != nil {
		return nil
	}
	return e.wake
}

// keep brings the file up to date.
func (e *Enforcer) keep(k *keeper, s *state) {
	if err := k.write(s); err != nil {
		e.cfg.Log.Warn("network policy: cannot be kept for a time without the API", "err", err)
	}
}

// await returns true when informers have what there is. Until then what was in force stays in force, and is put back if it was removed, as far as
// it is remembered; nobody new gets on the network.
func (e *Enforcer) await(ctx context.Context, synced ...cache.InformerSynced) bool {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan bool, 1)
	go func() { done <- cache.WaitForCacheSync(ctx.Done(), synced...) }()
	retry := e.restore(false)
	for {
		select {
		case ok := <-done:
			return ok
		case <-e.cfg.Tampering:
			retry = e.restore(true)
		case <-retry:
			retry = e.restore(true)
		}
	}
}

// restore puts back what was in force before this process, if it is gone or somebody has changed it. It returns when to try again what failed.
func (e *Enforcer) restore(tampered bool) (retry <-chan time.Time) {
	if e.before == nil {
		return nil
	}
	want := e.before.desired(e.cfg.Sandboxes)
	stands, err := e.cfg.Datapath.Stands(want)
	if err == nil && (tampered || !stands) {
		e.cfg.Log.Warn("network policy: somebody else changed the rules; they are made again as they were last")
		err = e.cfg.Datapath.Replace(want)
	}
	if err != nil {
		e.cfg.Log.Error("network policy: will try again", "after", retryFirst, "err", err)
		return time.After(retryFirst)
	}
	return nil
}

// followPeers runs the informer of all pods and waits until it has them.
func (e *Enforcer) followPeers(ctx context.Context, background *sync.WaitGroup) (corelisters.PodLister, error) {
	synced, err := follow(e.cfg.Peers, e.podChanged)
	if err != nil {
		return nil, err
	}
	background.Go(func() { e.cfg.Peers.RunWithContext(ctx) })
	e.await(ctx, synced)
	return corelisters.NewPodLister(e.cfg.Peers.GetIndexer()), nil
}

func (e *Enforcer) apply(want *Desired, dirty *Dirty, whole bool) error {
	n := len(dirty.Pods)
	for _, elements := range dirty.Sets {
		n += len(elements)
	}
	switch {
	case whole || n > replaceAbove:
		return e.cfg.Datapath.Replace(want)
	case dirty.empty():
		return nil
	}
	return e.cfg.Datapath.Update(want, dirty)
}

// take brings the state up to what the informers have, and returns what was pending, and so who waits for it.
func (e *Enforcer) take(ctx context.Context, background *sync.WaitGroup, s *state) pending {
	e.mu.Lock()
	work := e.pending
	e.pending = newPending()
	e.mu.Unlock()
	for n := range work.namespaces {
		ns, err := e.namespaces.Get(n)
		if err != nil { // listers know no other error than that it is gone
			s.setNamespace(n, false, nil)
			continue
		}
		s.setNamespace(n, true, ns.Labels)
	}
	for n := range work.policies {
		e.takePolicy(ctx, background, s, n)
	}
	for n := range work.cluster {
		e.takeClusterPolicy(ctx, background, s, n)
	}
	for n := range work.nodes {
		s.setPod(name{nodes, n}, e.node(n))
	}
	for n := range work.pods {
		s.setPod(n, e.pod(n))
	}
	for n := range work.names {
		s.setName(n, e.cfg.Names.get(n))
	}
	for _, b := range work.boxes {
		if b.gone {
			delete(e.unseen, b.ID)
			s.detach(b.ID)
			continue
		}
		s.attach(b.ID, name{b.Namespace, b.Name}, b.Addrs)
		if b.Unseen != nil {
			e.unseen[b.ID] = &unseen{pod: name{b.Namespace, b.Name}, why: b.Unseen}
		}
	}
	return work
}

// mention has the addresses of the names that policies mention be learned.
func (e *Enforcer) mention(s *state) {
	if e.cfg.Names == nil {
		return
	}
	if d, changed := s.mentioned(); changed {
		for _, n := range e.cfg.Names.mention(d) {
			s.setName(n, resolved{})
		}
	}
}

func (e *Enforcer) takePolicy(ctx context.Context, background *sync.WaitGroup, s *state, n name) {
	in, err := e.policies.NetworkPolicies(n.namespace).Get(n.name)
	if err != nil {
		delete(e.warned, n)
		s.setPolicy(n, nil)
		return
	}
	p, err := parse(in)
	err = errors.Join(err, e.cfg.Broken)
	if p.sctp && !e.cfg.SCTP {
		err = errors.Join(err, errNoSCTP)
	}
	e.warn(ctx, background, n, in, err)
	s.setPolicy(n, p)
}

func (e *Enforcer) takeClusterPolicy(ctx context.Context, background *sync.WaitGroup, s *state, n string) {
	in := e.cfg.Cluster.get(n)
	if in == nil {
		delete(e.warned, name{"", n})
		s.setClusterPolicy(n, nil)
		return
	}
	p, err := parseCluster(in, e.cfg.Names != nil)
	err = errors.Join(err, e.cfg.Broken)
	if p != nil && p.sctp && !e.cfg.SCTP {
		err = errors.Join(err, errNoSCTP)
	}
	e.warn(ctx, background, name{"", n}, in, err)
	s.setClusterPolicy(n, p)
}

// node is a node as a peer: its labels and addresses.
func (e *Enforcer) node(n string) *pod {
	in, err := e.nodes.Get(n)
	if err != nil {
		return nil
	}
	out := &pod{labels: in.Labels}
	for _, a := range in.Status.Addresses {
		if ip, err := netip.ParseAddr(a.Address); err == nil {
			out.addrs = append(out.addrs, ip.Unmap())
		}
	}
	return out
}

var errNoSCTP = errors.New("the kernel of the node does not track SCTP: what is allowed over SCTP is dropped")

// warn says what is wrong with a policy, if it has not been said.
func (e *Enforcer) warn(ctx context.Context, background *sync.WaitGroup, n name, policy runtime.Object, wrong error) {
	if wrong == nil {
		delete(e.warned, n)
		return
	}
	if message := wrong.Error(); e.warned[n] != message {
		e.warned[n] = message
		e.cfg.Log.Warn("network policy: not enforced as it is", "policy", n.namespace+"/"+n.name, "err", wrong)
		background.Go(func() { e.cfg.Warn(ctx, policy, message) })
	}
}

// warnUnseen tells of pods that policies select, and whose packets the datapath does not see.
func (e *Enforcer) warnUnseen(ctx context.Context, background *sync.WaitGroup, s *state) {
	for _, u := range e.unseen {
		if u.told || !s.restricted(u.pod) {
			continue
		}
		p, err := e.own.Pods(u.pod.namespace).Get(u.pod.name)
		if err != nil {
			continue // it comes, or it goes
		}
		u.told = true
		message := fmt.Sprintf("network policies select this pod and are not enforced, at least between pods of its node: %v", u.why)
		e.cfg.Log.Warn("network policy: not enforced", "pod", u.pod.namespace+"/"+u.pod.name, "err", u.why)
		background.Go(func() { e.cfg.Warn(ctx, p, message) })
	}
}

// pod is what there is to know of a pod: of one of this node by the informer that the node itself follows.
func (e *Enforcer) pod(n name) *pod {
	p, err := e.own.Pods(n.namespace).Get(n.name)
	if err == nil && p.Spec.NodeName == e.cfg.NodeName {
		return podOf(p)
	}
	if e.peers == nil { // without a policy others don't matter
		return nil
	}
	if p, err = e.peers.Pods(n.namespace).Get(n.name); err != nil || p.Spec.NodeName == e.cfg.NodeName {
		return nil
	}
	return podOf(p)
}

// anyPolicy says whether other nodes' pods matter.
func (s *state) anyPolicy() bool {
	if len(s.cluster) > 0 {
		return true
	}
	for _, ns := range s.namespaces {
		if len(ns.policies) > 0 {
			return true
		}
	}
	return false
}
