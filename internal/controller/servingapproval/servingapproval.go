package servingapproval

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes"
	certificateslisters "k8s.io/client-go/listers/certificates/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/celox/celox/internal/client/informers"
	"github.com/celox/celox/internal/controller"
)

const nodeUser = "system:node:"

// Controller reconciles CertificateSigningRequests.
type Controller struct {
	client   kubernetes.Interface
	requests certificateslisters.CertificateSigningRequestLister
	nodes    corelisters.NodeLister
	reserved []netip.Prefix
	log      *slog.Logger
	loop     *controller.Loop
}

// New makes the controller and registers it with the informers, which the caller starts. Reserved are addresses that no node has: those of services.
func New(c kubernetes.Interface, f *informers.Factory, reserved []netip.Prefix, log *slog.Logger, m *controller.Metrics) (*Controller, error) {
	requests, nodes := f.Certificates().V1().CertificateSigningRequests(), f.Core().V1().Nodes()
	ctl := &Controller{client: c, requests: requests.Lister(), nodes: nodes.Lister(), reserved: reserved, log: log}
	if ctl.log == nil {
		ctl.log = slog.New(slog.DiscardHandler)
	}
	ctl.loop = controller.NewLoop("kubelet_serving_approver", ctl.Reconcile, controller.Options{
		Workers: 1, Synced: []cache.InformerSynced{requests.Informer().HasSynced, nodes.Informer().HasSynced}, Log: log, Metrics: m,
	})
	if err := errors.Join(
		controller.Watch(requests.Informer(), controller.Handlers[*certificatesv1.CertificateSigningRequest]{Changed: func(csr *certificatesv1.CertificateSigningRequest) {
			if waits(csr) {
				ctl.loop.AddObject(csr)
			}
		}}),
		// A node that has just joined asks before its addresses are known.
		controller.Watch(nodes.Informer(), controller.Handlers[*corev1.Node]{
			Add: func(n *corev1.Node) { ctl.askedBy(n.Name) },
			Update: func(old, n *corev1.Node) {
				if !slices.Equal(old.Status.Addresses, n.Status.Addresses) {
					ctl.askedBy(n.Name)
				}
			},
		})); err != nil {
		return nil, fmt.Errorf("servingapproval: %w", err)
	}
	return ctl, nil
}

// Run reconciles until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

// waits says that nobody has decided on a request that is for this controller.
func waits(csr *certificatesv1.CertificateSigningRequest) bool {
	return csr.Spec.SignerName == certificatesv1.KubeletServingSignerName && len(csr.Status.Certificate) == 0 && len(csr.Status.Conditions) == 0
}

// askedBy looks again at what a node has asked.
func (c *Controller) askedBy(node string) {
	all, err := c.requests.List(labels.Everything())
	if err != nil {
		return // a cache does not fail
	}
	for _, csr := range all {
		if csr.Spec.Username == nodeUser+node && waits(csr) {
			c.loop.AddObject(csr)
		}
	}
}

// Reconcile approves a request if it asks for no more than its node's name and addresses. Others wait: for the node to say that the address is its own,
// or for a person.
func (c *Controller) Reconcile(ctx context.Context, key string) error {
	csr, err := c.requests.Get(key)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("get request: %w", err)
	}
	if !waits(csr) {
		return nil
	}
	nodes, err := c.nodes.List(labels.Everything())
	if err != nil {
		return fmt.Errorf("list nodes: %w", err)
	}
	if reason := judge(csr, nodes, c.reserved); reason != "" {
		c.log.Info("a node's request for a serving certificate waits", "csr", csr.Name, "user", csr.Spec.Username, "reason", reason)
		return nil
	}
	csr = csr.DeepCopy()
	csr.Status.Conditions = append(csr.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
		Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "AutoApproved", Message: "Auto approving kubelet serving certificate: name and addresses are those of the node.",
	})
	if _, err := c.client.CertificatesV1().CertificateSigningRequests().UpdateApproval(ctx, csr.Name, csr, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("approve %s: %w", csr.Name, err)
	}
	return nil
}

// judge says why a request is not to be approved; "" is that it is.
func judge(csr *certificatesv1.CertificateSigningRequest, nodes []*corev1.Node, reserved []netip.Prefix) string {
	name, ok := strings.CutPrefix(csr.Spec.Username, nodeUser)
	if !ok || !slices.Contains(csr.Spec.Groups, user.NodesGroup) {
		return "it was not made by a node"
	}
	block, _ := pem.Decode(csr.Spec.Request)
	if block == nil {
		return "it is no certificate request"
	}
	req, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return "it is no certificate request"
	}
	switch {
	case req.Subject.CommonName != csr.Spec.Username || !slices.Equal(req.Subject.Organization, []string{user.NodesGroup}):
		return "it is for somebody else"
	case len(req.EmailAddresses) > 0 || len(req.URIs) > 0:
		return "it asks for more than names and addresses"
	case len(req.DNSNames)+len(req.IPAddresses) == 0:
		return "it asks for no name and no address"
	}
	i := slices.IndexFunc(nodes, func(n *corev1.Node) bool { return n.Name == name })
	if i < 0 {
		return "the node is not known yet"
	}
	for _, dns := range req.DNSNames {
		if dns != name && !has(nodes[i], dns, corev1.NodeHostName, corev1.NodeInternalDNS, corev1.NodeExternalDNS) {
			return "the node has no name " + dns
		}
		for _, other := range nodes {
			if other.Name != name && (other.Name == dns || has(other, dns, corev1.NodeHostName, corev1.NodeInternalDNS, corev1.NodeExternalDNS)) {
				return dns + " is the name of node " + other.Name
			}
		}
		if dns == "localhost" || dns == "kubernetes" || strings.HasPrefix(dns, "kubernetes.default") {
			return dns + " is no node's name"
		}
	}
	for _, ip := range req.IPAddresses {
		if reason := judgeAddress(ip, nodes[i], nodes, reserved); reason != "" {
			return reason
		}
	}
	return ""
}

func judgeAddress(ip net.IP, node *corev1.Node, nodes []*corev1.Node, reserved []netip.Prefix) string {
	a, ok := netip.AddrFromSlice(ip)
	if !ok {
		return "it has no proper address"
	}
	a = a.Unmap()
	if a.IsLoopback() || a.IsUnspecified() || a.IsMulticast() || slices.ContainsFunc(reserved, func(p netip.Prefix) bool { return p.Contains(a) }) {
		return a.String() + " is no node's address"
	}
	if !has(node, a.String(), corev1.NodeInternalIP, corev1.NodeExternalIP) {
		return "the node has no address " + a.String()
	}
	for _, other := range nodes {
		if other.Name != node.Name && has(other, a.String(), corev1.NodeInternalIP, corev1.NodeExternalIP) {
			return a.String() + " is an address of node " + other.Name
		}
	}
	return ""
}

func has(n *corev1.Node, address string, types ...corev1.NodeAddressType) bool {
	return slices.ContainsFunc(n.Status.Addresses, func(a corev1.NodeAddress) bool { return a.Address == address && slices.Contains(types, a.Type) })
}
