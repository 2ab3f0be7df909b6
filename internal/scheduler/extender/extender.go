package extender

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/rest"
	schedulerv1 "k8s.io/kube-scheduler/config/v1"
	extenderv1 "k8s.io/kube-scheduler/extender/v1"

	"github.com/celox/celox/internal/scheduler"
)

const (
	// defaultTimeout is how long a call may take if the configuration doesn't say.
	defaultTimeout = 5 * time.Second
	// maxAnswer bounds the size of an answer.
	maxAnswer = 64 << 20
	// scale makes an extender's 0 to 10 comparable with the 0 to 100 of plugins.
	scale = 100 / extenderv1.MaxExtenderPriority
)

// Extender is one of them. It is safe for concurrent use.
type Extender struct {
	cfg       schedulerv1.Extender
	client    *http.Client
	nodes     corelisters.NodeLister
	resources []v1.ResourceName // that it manages; empty is all pods
}

var _ scheduler.Extender = (*Extender)(nil)

// New returns an extender for a valid configuration. An extender that doesn't know the nodes itself is told of them from a lister.
func New(cfg schedulerv1.Extender, nodes corelisters.NodeLister) (*Extender, error) {
	tlsConfig := rest.TLSClientConfig{}
	if t := cfg.TLSConfig; t != nil {
		tlsConfig = rest.TLSClientConfig{
			Insecure: t.Insecure, ServerName: t.ServerName, CertFile: t.CertFile, KeyFile: t.KeyFile, CAFile: t.CAFile,
			CertData: t.CertData, KeyData: t.KeyData, CAData: t.CAData,
		}
	}
	if strings.HasPrefix(cfg.URLPrefix, "http://") && !cfg.EnableHTTPS {
		tlsConfig = rest.TLSClientConfig{} // nothing to check
	}
	timeout := cfg.HTTPTimeout.Duration
	if timeout == 0 {
		timeout = defaultTimeout
	}
	transport, err := rest.TLSConfigFor(&rest.Config{TLSClientConfig: tlsConfig})
	if err != nil {
		return nil, fmt.Errorf("extender %s: %w", cfg.URLPrefix, err)
	}
	t := http.DefaultTransport.(*http.Transport).Clone()
	if t.TLSClientConfig = transport; transport != nil {
		t.ForceAttemptHTTP2 = true
	}
	e := &Extender{cfg: cfg, client: &http.Client{Transport: t, Timeout: timeout}, nodes: nodes}
	for _, r := range cfg.ManagedResources {
		e.resources = append(e.resources, v1.ResourceName(r.Name))
	}
	return e, nil
}

// Name is the extender's address.
func (e *Extender) Name() string { return e.cfg.URLPrefix }

// Ignorable says that pods are scheduled without the extender when it can't be asked.
func (e *Extender) Ignorable() bool { return e.cfg.Ignorable }

// Binds says that the extender binds the pods that it is interested in.
func (e *Extender) Binds() bool { return e.cfg.BindVerb != "" }

// Close ends connections that are idle.
func (e *Extender) Close() { e.client.CloseIdleConnections() }

// Interested says whether the extender wants to know of a pod: it does if the pod asks for a resource that it manages, or if it manages none in particular.
func (e *Extender) Interested(pod *v1.Pod) bool {
	if len(e.resources) == 0 {
		return true
	}
	asks := func(c *v1.Container) bool {
		return slices.ContainsFunc(e.resources, func(r v1.ResourceName) bool {
			_, requested := c.Resources.Requests[r]
			_, limited := c.Resources.Limits[r]
			return requested || limited
		})
	}
	for i := range pod.Spec.Containers {
		if asks(&pod.Spec.Containers[i]) {
			return true
		}
	}
	for i := range pod.Spec.InitContainers {
		if asks(&pod.Spec.InitContainers[i]) {
			return true
		}
	}
	return false
}

// Filter returns the names of the nodes that can have the pod, in the order in which they were given, and why others can't; helpless are those of them where it would
// change nothing to evict pods. An extender that doesn't filter returns all.
func (e *Extender) Filter(ctx context.Context, pod *v1.Pod, nodes []string) (fit []string, refused, helpless map[string]string, err error) {
	if e.cfg.FilterVerb == "" {
		return nodes, nil, nil, nil
	}
	var result extenderv1.ExtenderFilterResult
	if err := e.call(ctx, e.cfg.FilterVerb, e.arguments(pod, nodes), &result); err != nil {
		return nil, nil, nil, err
	}
	if result.Error != "" {
		return nil, nil, nil, e.fail(e.cfg.FilterVerb, errors.New(result.Error))
	}
	kept := map[string]bool{}
	switch {
	case e.cfg.NodeCacheCapable && result.NodeNames != nil:
		for _, name := range *result.NodeNames {
			kept[name] = true
		}
	case result.Nodes != nil:
		for i := range result.Nodes.Items {
			kept[result.Nodes.Items[i].Name] = true
		}
	}
	for _, name := range nodes {
		if kept[name] {
			fit = append(fit, name)
			delete(kept, name)
		}
	}
	for name := range kept {
		return nil, nil, nil, fmt.Errorf("extender %q claims a filtered node %q which is not found in the input node list", e.cfg.URLPrefix, name)
	}
	for name := range result.FailedAndUnresolvableNodes {
		delete(result.FailedNodes, name) // this word counts for more
	}
	return fit, result.FailedNodes, result.FailedAndUnresolvableNodes, nil
}

// Prioritize returns what is to be added to the scores of nodes; nothing if the extender doesn't prioritize.
func (e *Extender) Prioritize(ctx context.Context, pod *v1.Pod, nodes []string) (map[string]int64, error) {
	if e.cfg.PrioritizeVerb == "" {
		return nil, nil
	}
	var result extenderv1.HostPriorityList
	if err := e.call(ctx, e.cfg.PrioritizeVerb, e.arguments(pod, nodes), &result); err != nil {
		return nil, err
	}
	out := make(map[string]int64, len(result))
	for _, p := range result {
		score := min(max(p.Score, extenderv1.MinExtenderPriority), extenderv1.MaxExtenderPriority)
		out[p.Host] = score * scale * e.cfg.Weight
	}
	return out, nil
}

// Bind has the extender bind a pod.
func (e *Extender) Bind(ctx context.Context, pod *v1.Pod, node string) error {
	var result extenderv1.ExtenderBindingResult
	err := e.call(ctx, e.cfg.BindVerb, &extenderv1.ExtenderBindingArgs{PodName: pod.Name, PodNamespace: pod.Namespace, PodUID: pod.UID, Node: node}, &result)
	if err != nil {
		return err
	}
	if result.Error != "" {
		return e.fail(e.cfg.BindVerb, errors.New(result.Error))
	}
	return nil
}

// Preempt returns those of the plans that the extender agrees with, perhaps with fewer victims each; all of them if it has no say in that.
func (e *Extender) Preempt(ctx context.Context, pod *v1.Pod, plans []scheduler.Eviction) ([]scheduler.Eviction, error) {
	if e.cfg.PreemptVerb == "" {
		return plans, nil
	}
	args := &extenderv1.ExtenderPreemptionArgs{Pod: pod}
	if e.cfg.NodeCacheCapable {
		args.NodeNameToMetaVictims = map[string]*extenderv1.MetaVictims{}
		for _, plan := range plans {
			m := &extenderv1.MetaVictims{NumPDBViolations: int64(plan.Violations)}
			for _, p := range plan.Victims {
				m.Pods = append(m.Pods, &extenderv1.MetaPod{UID: string(p.UID)})
			}
			args.NodeNameToMetaVictims[plan.Node] = m
		}
	} else {
		args.NodeNameToVictims = map[string]*extenderv1.Victims{}
		for _, plan := range plans {
			args.NodeNameToVictims[plan.Node] = &extenderv1.Victims{Pods: plan.Victims, NumPDBViolations: int64(plan.Violations)}
		}
	}
	var result extenderv1.ExtenderPreemptionResult
	if err := e.call(ctx, e.cfg.PreemptVerb, args, &result); err != nil {
		return nil, err
	}
	var out []scheduler.Eviction
	for _, plan := range plans {
		m := result.NodeNameToMetaVictims[plan.Node]
		if m == nil {
			continue
		}
		delete(result.NodeNameToMetaVictims, plan.Node)
		asked := plan.Victims
		plan.Violations, plan.Victims = int(m.NumPDBViolations), nil
		for _, mp := range m.Pods {
			i := slices.IndexFunc(asked, func(p *v1.Pod) bool { return mp != nil && string(p.UID) == mp.UID })
			if i < 0 {
				return nil, fmt.Errorf("extender: %s claims to preempt pod (UID: %v) on node: %s, but the pod is not found on that node", e.cfg.URLPrefix, mp, plan.Node)
			}
			plan.Victims = append(plan.Victims, asked[i])
		}
		out = append(out, plan)
	}
	for node := range result.NodeNameToMetaVictims {
		return nil, e.fail(e.cfg.PreemptVerb, fmt.Errorf("nodeinfo not found for node name %q", node))
	}
	return out, nil
}

// arguments names the nodes, or describes them to an extender that doesn't know them.
func (e *Extender) arguments(pod *v1.Pod, nodes []string) *extenderv1.ExtenderArgs {
	args := &extenderv1.ExtenderArgs{Pod: pod}
	if e.cfg.NodeCacheCapable {
		args.NodeNames = &nodes
		return args
	}
	args.Nodes = &v1.NodeList{Items: make([]v1.Node, 0, len(nodes))}
	for _, name := range nodes {
		if n, err := e.nodes.Get(name); err == nil { // else it is gone, and not to be chosen
			args.Nodes.Items = append(args.Nodes.Items, *n) // encoded, never changed
		}
	}
	return args
}

func (e *Extender) fail(verb string, err error) error {
	return fmt.Errorf("extender %s, %s: %w", e.cfg.URLPrefix, verb, err)
}

// call posts a question and reads the answer.
func (e *Extender) call(ctx context.Context, verb string, question, answer any) error {
	body, err := json.Marshal(question)
	if err != nil {
		return e.fail(verb, err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimRight(e.cfg.URLPrefix, "/")+"/"+verb, bytes.NewReader(body))
	if err != nil {
		return e.fail(verb, err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := e.client.Do(req)
	if err != nil {
		return err // it says the address
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return e.fail(verb, err)
	}
	if len(data) > maxAnswer {
		return e.fail(verb, fmt.Errorf("the answer has more than %d bytes", maxAnswer))
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("failed %s with extender at URL %s, code %d", verb, req.URL, resp.StatusCode)
	}
	if err := json.Unmarshal(data, answer); err != nil {
		return e.fail(verb, fmt.Errorf("not the answer that was expected: %w", err))
	}
	return nil
}
