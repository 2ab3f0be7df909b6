package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/record"

	"github.com/celox/celox/internal/network/mesh"
	"github.com/celox/celox/internal/network/wireguard"
)

const (
	// wireguardKey is the annotation of a Node with the public key that its packets are encrypted for.
	wireguardKey = "celox.io/wireguard-key"
	// wireguardKeyFile, in the directory of the pod network, has the private one.
	wireguardKeyFile = "wireguard.key"
	// publishRetry is how long a key waits that could not be published.
	publishRetry = 5 * time.Second
)

// ways are those of a node to the pods of others.
type ways struct {
	h    *host
	mesh *mesh.Mesh
	// key is what others encrypt for; zero is that nothing is encrypted.
	key    wireguard.Key
	device *wireguard.Device
	wake   chan struct{} // capacity 1: the own Node may have another key
	events record.EventRecorder
	ready  func(node string) bool
}

// openWays makes the encrypted device where the cluster wants one. A kernel without is no reason to go on without.
func openWays(h *host, ready func(node string) bool) (*ways, error) {
	w := &ways{h: h, wake: make(chan struct{}, 1), ready: ready}
	if h.facts.wireguardPort != 0 {
		secret, made, err := wireguard.LoadKey(filepath.Join(h.cfg.DataDir, networkDir, wireguardKeyFile))
		if err != nil {
			return nil, err
		}
		w.device, err = wireguard.Open(secret)
		if errors.Is(err, wireguard.ErrNotSupported) {
			return nil, fmt.Errorf("%w: the cluster demands that packets between nodes are encrypted (--pod-encryption=wireguard), so this node does not start: "+
				"load the module or take a kernel that has it, or start the server with --pod-encryption=none", err)
		}
		if err != nil {
			return nil, err
		}
		w.key = secret.Public()
		if made {
			h.log.Info("pod network: made a key for encryption", "public", w.key)
		}
	}
	m, err := mesh.New(h.log, w.device, w.report)
	if err != nil {
		return nil, err
	}
	w.mesh = m
	return w, nil
}

// start starts what follows the nodes.
func (w *ways) start(run *group) {
	if w.device != nil {
		run.atEnd("encrypted device", w.device.Close)
	}
	b := record.NewBroadcaster(record.WithContext(context.WithoutCancel(run.parent)))
	b.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: w.h.client.CoreV1().Events("")})
	run.atEnd("events of the ways to other nodes", func() error {
		b.Shutdown()
		return nil
	})
	w.events = b.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "celox-mesh", Host: w.h.cfg.NodeName})
	run.run("ways to other nodes", w.mesh.Run)
	run.run("key for encryption", func(ctx context.Context) error {
		w.publish(ctx)
		return nil
	})
}

// set says which nodes there are.
func (w *ways) set(self []netip.Prefix, nodes []*corev1.Node) {
	var peers []mesh.Peer
	for _, node := range nodes {
		if node.Name == w.h.cfg.NodeName {
			if node.Annotations[wireguardKey] != w.key.String() {
				w.poke()
			}
			continue
		}
		p := mesh.Peer{Name: node.Name, Addrs: addressesOf(node), Pods: networksOf(node)}
		if text := node.Annotations[wireguardKey]; text != "" && w.device != nil {
			key, err := wireguard.ParseKey(text)
			if err != nil {
				w.h.log.Warn("pod network: a node has no good key", "node", node.Name, "err", err)
			}
			p.Key = key
		}
		if len(p.Pods) > 0 {
			peers = append(peers, p)
		}
	}
	w.mesh.Set(mesh.Self{Addrs: w.h.addrs, Pods: self, Cluster: w.h.facts.clusterCIDRs, Port: w.h.facts.wireguardPort}, peers)
}

func (w *ways) poke() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// publish writes the public key into the node's own object whenever that has another, until ctx ends.
func (w *ways) publish(ctx context.Context) {
	var again <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.wake:
		case <-again:
		}
		again = nil
		var value any // null removes it
		if !w.key.IsZero() {
			value = w.key.String()
		}
		patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]any{wireguardKey: value}}})
		if err == nil {
			_, err = w.h.client.CoreV1().Nodes().Patch(ctx, w.h.cfg.NodeName, types.MergePatchType, patch, metav1.PatchOptions{})
		}
		if err != nil && ctx.Err() == nil {
			w.h.log.Warn("pod network: cannot publish the key for encryption; trying again", "err", err, "in", publishRetry)
			again = time.After(publishRetry)
		}
	}
}

// report makes events of what the mesh finds out. A node that is not Ready has other problems, of which the cluster knows.
func (w *ways) report(r mesh.Report) bool {
	self := &corev1.ObjectReference{Kind: "Node", APIVersion: "v1", Name: w.h.cfg.NodeName, UID: types.UID(w.h.cfg.NodeName)} // as kubelets refer to nodes
	if r.Works {
		w.events.Eventf(self, corev1.EventTypeNormal, "PodsReachable", "the pods of node %s are reached again", r.Node)
		return true
	}
	if !w.ready(r.Node) {
		return false
	}
	w.h.say("pods of node %s are not reached: %s", r.Node, r.Problem)
	w.events.Event(self, corev1.EventTypeWarning, r.Reason, r.Problem)
	return true
}
