package cluster

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	k8sruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/celox/celox/internal/cluster/config"
	"github.com/celox/celox/internal/network/policy"
	"github.com/celox/celox/internal/network/proxy"
	"github.com/celox/celox/internal/runtime"
)

const (
	// reasonNotEnforced is of the event on a policy of which the node cannot do a part.
	reasonNotEnforced = "PolicyNotEnforced"
	// eventTimeout bounds the write of an event.
	eventTimeout = 30 * time.Second
	// policiesFile, in the directory of the pod network, has what was in force last: an agent may start while the API is away.
	policiesFile = "policies"
	// policyNamesFile, beside it, has the addresses of domain names that policies mention.
	policyNamesFile = "policy-names"
)

// startPolicy starts what keeps the pods of this node to the network policies, whoever connects them.
func (h *host) startPolicy(run *group, pods *nodeNetwork) error {
	if pods == nil {
		return nil
	}
	dir := filepath.Join(h.cfg.DataDir, networkDir)
	if slices.Contains(h.facts.disabled, config.NetworkPolicy) {
		for _, f := range []string{policiesFile, policyNamesFile} {
			if err := os.Remove(filepath.Join(dir, f)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("network policy: %w", err)
			}
		}
		return policy.Remove() // of an earlier configuration
	}
	c := policy.Config{
		Names: h.names, NodeName: h.cfg.NodeName, Informers: h.informers, Own: h.pods, Sandboxes: pods.attached(), SCTP: policy.TracksSCTP(), Warn: h.warnPolicy, Log: h.log,
	}
	if h.pods != nil { // an agent, whose API may be away when it starts
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("network policy: %w", err)
		}
		c.Keep = filepath.Join(dir, policiesFile)
	}
	watch, err := h.policyDatapath(&c, pods)
	if err != nil {
		return err
	}
	fail := func(err error) error {
		if watch != nil {
			err = errors.Join(err, watch.Close())
		}
		return errors.Join(err, c.Datapath.Close())
	}
	if c.Own == nil {
		c.Own = h.informers.Core().V1().Pods().Informer()
	} else if c.Peers, err = h.peerPods(); err != nil {
		return fail(err)
	}
	if c.Cluster, err = policy.NewClusterPolicies(h.client.CoreV1().RESTClient()); err != nil {
		return fail(err)
	}
	e, err := policy.New(c)
	if err != nil {
		return fail(err)
	}
	pods.restrictBy(e)
	if watch != nil {
		run.run("news of policies' tables", watch.Run)
	}
	run.run("network policy", e.Run)
	return nil
}

// openNames has what the node's name server says of names that policies mention be kept, if there are both. It is there before the name server starts.
func (h *host) openNames(run *group, pods *nodeNetwork) error {
	if pods == nil || slices.Contains(h.facts.disabled, config.NetworkPolicy) || slices.Contains(h.facts.disabled, config.DNS) {
		return nil
	}
	dir := filepath.Join(h.cfg.DataDir, networkDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("network policy: %w", err)
	}
	var standing policy.Standing
	if connections, err := policy.NewConnections(); err != nil {
		h.log.Warn("network policy: connections to addresses that names had will be cut", "err", err)
	} else {
		run.atEnd("connections to addresses that names had", connections.Close)
		standing = connections
	}
	h.names = policy.NewNames(filepath.Join(dir, policyNamesFile), standing, h.metrics, h.log)
	return nil
}

// policyStatuses says of the cluster's policies whether nodes can enforce them, unless others do.
func (s *Server) policyStatuses(c kubernetes.Interface) (runner, error) {
	if s.cfg.Disables(config.NetworkPolicy) {
		return idle{}, nil
	}
	return policy.NewStatuses(c.CoreV1().RESTClient(), !s.cfg.Disables(config.DNS), s.log)
}

// idle is a controller that has nothing to do.
type idle struct{}

// Run implements runner.
func (idle) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// policyDatapath opens the kernel's tables, and what tells of others who change them; nil without tables, as on a kernel that has none.
func (h *host) policyDatapath(c *policy.Config, pods *nodeNetwork) (*policy.Watch, error) {
	if err := rulesPossible(proxy.Probe, time.Sleep, h.log); err != nil {
		h.say("NETWORK POLICIES ARE NOT ENFORCED on this node, because its kernel cannot have the rules for them: %v", err)
		c.Datapath, c.Broken = policy.None{}, fmt.Errorf("not enforced on node %s, whose kernel cannot have the rules: %w", h.cfg.NodeName, err)
		return nil, nil //nolint:nilnil // as said
	}
	datapath, err := policy.NewNFTables()
	if err != nil {
		return nil, err
	}
	watch, err := policy.NewWatch(datapath.Port())
	if err != nil {
		return nil, errors.Join(err, datapath.Close())
	}
	c.Datapath, c.Tampering = datapath, watch.C()
	if pods.shortcut != nil {
		c.Datapath = policy.WithShortcut(datapath, pods.shortcut)
	}
	return watch, nil
}

// peerPods is the informer of all pods of the cluster, of which it keeps no more than policies look at. It is not started.
func (h *host) peerPods() (cache.SharedIndexInformer, error) {
	all := cache.NewSharedIndexInformerWithOptions(
		cache.NewListWatchFromClient(h.client.CoreV1().RESTClient(), "pods", metav1.NamespaceAll, fields.Everything()),
		&corev1.Pod{}, cache.SharedIndexInformerOptions{ObjectDescription: "pods of all nodes"})
	return all, all.SetTransform(policy.Trim)
}

// warnPolicy writes an event, which all nodes that find the same call the same, so that there is one.
func (h *host) warnPolicy(ctx context.Context, about k8sruntime.Object, message string) {
	ctx, cancel := context.WithTimeout(ctx, eventTimeout)
	defer cancel()
	ref := corev1.ObjectReference{}
	switch p := about.(type) {
	case *networkingv1.NetworkPolicy:
		ref = corev1.ObjectReference{APIVersion: "networking.k8s.io/v1", Kind: "NetworkPolicy", Namespace: p.Namespace, Name: p.Name, UID: p.UID, ResourceVersion: p.ResourceVersion}
	case *corev1.Pod:
		ref = corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: p.Namespace, Name: p.Name, UID: p.UID, ResourceVersion: p.ResourceVersion}
	case *policy.ClusterNetworkPolicy:
		ref = corev1.ObjectReference{APIVersion: policy.ClusterGroupVersion, Kind: "ClusterNetworkPolicy", Name: p.Name, UID: p.UID, ResourceVersion: p.ResourceVersion}
	}
	namespace := ref.Namespace
	if namespace == "" {
		namespace = metav1.NamespaceDefault
	}
	sum := sha256.Sum256([]byte(string(ref.UID) + message))
	now := metav1.Now()
	_, err := h.client.CoreV1().Events(namespace).Create(ctx, &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Namespace: namespace, Name: fmt.Sprintf("%s.%x", ref.Name, sum[:8])},
		InvolvedObject: ref, Type: corev1.EventTypeWarning, Reason: reasonNotEnforced, Message: message, Count: 1, FirstTimestamp: now, LastTimestamp: now,
		Source: corev1.EventSource{Component: "celox-network-policy", Host: h.cfg.NodeName}, ReportingController: "celox-network-policy", ReportingInstance: h.cfg.NodeName,
	}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) && ctx.Err() == nil {
		h.log.Warn("network policy: event", "policy", ref.Name, "err", err)
	}
}

// sandboxRules are told of sandboxes before their first process starts and after they are gone.
type sandboxRules interface {
	Attach(ctx context.Context, s policy.Sandbox) error
	Detach(id string)
}

// restrictBy has every sandbox from now on wait for its rules.
func (n *nodeNetwork) restrictBy(r sandboxRules) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.rules = r
}

func (n *nodeNetwork) sandboxRules() sandboxRules {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.rules
}

// attached are the sandboxes that there are.
func (n *nodeNetwork) attached() []policy.Sandbox {
	var out []policy.Sandbox
	if n.external {
		for _, a := range n.plugins.Attached() {
			out = append(out, sandboxOf(a.ID, a.Pod, a.Addrs, n.plugins.Unseen(a.NetNS)))
		}
		return out
	}
	current, err := n.network()
	if err != nil {
		return nil // none were made without it
	}
	for _, a := range current.Attached() {
		out = append(out, sandboxOf(a.ID, a.Pod, a.Addrs, nil))
	}
	return out
}

func sandboxOf(id, pod string, addrs []netip.Addr, unseen error) policy.Sandbox {
	namespace, name, _ := strings.Cut(pod, "/")
	return policy.Sandbox{ID: id, Namespace: namespace, Name: name, Addrs: addrs, Unseen: unseen}
}

// restrict returns when the rules of a new sandbox are in force.
func (n *nodeNetwork) restrict(ctx context.Context, r runtime.SandboxRequest, addrs []netip.Addr) error {
	rules := n.sandboxRules()
	if rules == nil {
		return nil
	}
	s := policy.Sandbox{ID: r.ID, Namespace: r.Namespace, Name: r.Name, Addrs: addrs}
	if n.external {
		s.Unseen = n.plugins.Unseen(r.NetNSPath)
	}
	return rules.Attach(ctx, s)
}

// unrestrict forgets the rules of a sandbox.
func (n *nodeNetwork) unrestrict(id string) {
	if rules := n.sandboxRules(); rules != nil {
		rules.Detach(id)
	}
}
