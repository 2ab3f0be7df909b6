package admission

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/celox/celox/internal/apiserver/authz"
	"github.com/celox/celox/internal/apiserver/request"
)

// PodsAndNodes finds pods and nodes.
type PodsAndNodes interface {
	Pod(ctx context.Context, namespace, name string) (*corev1.Pod, error)
	Pods(ctx context.Context, namespace string) ([]*corev1.Pod, error)
	Node(ctx context.Context, name string) (*corev1.Node, error)
	ServiceAccount(ctx context.Context, namespace, name string) (*corev1.ServiceAccount, error)
}

// NodeRestriction lets a node change its own node object, the pods that are bound to it and what else is its own, and nothing of
// other nodes.
type NodeRestriction struct {
	objects    PodsAndNodes
	volumes    Volumes
	authorizer request.Authorizer
}

// NewNodeRestriction returns the plugin. The authorizer says which audiences a node may ask tokens for besides those of its pods'
// volumes; nil: none.
func NewNodeRestriction(objects PodsAndNodes, volumes Volumes, authorizer request.Authorizer) *NodeRestriction {
	return &NodeRestriction{objects: objects, volumes: volumes, authorizer: authorizer}
}

// Admit looks at what nodes write.
func (p *NodeRestriction) Admit(ctx context.Context, a *Attributes) error {
	if a.User == nil {
		return nil
	}
	node, ok := authz.NodeName(a.User)
	if !ok {
		return nil
	}
	if node == "" {
		return forbid(a, fmt.Errorf("could not determine node from user %q", a.User.GetName()))
	}
	switch a.groupResource().String() {
	case "pods":
		switch a.Subresource {
		case "":
			return p.pod(ctx, node, a)
		case "status":
			return p.podStatus(node, a)
		case "eviction":
			return p.eviction(ctx, node, a)
		}
		return forbid(a, fmt.Errorf("unexpected pod subresource %q, only 'status' and 'eviction' are allowed", a.Subresource))
	case "nodes":
		return p.node(node, a)
	case "persistentvolumeclaims":
		if a.Subresource != "status" || a.Operation != Update {
			return forbid(a, fmt.Errorf("may only update PVC status"))
		}
	case "serviceaccounts":
		if a.Subresource == "token" && a.Operation == Create {
			return p.token(ctx, node, a)
		}
	case "podcertificaterequests.certificates.k8s.io":
		return p.certificateRequest(ctx, node, a)
	case "leases.coordination.k8s.io":
		return ownLease(node, a)
	case "csinodes.storage.k8s.io":
		name := a.Name
		if o, ok := a.Object.(*storagev1.CSINode); ok && a.Operation == Create {
			name = o.Name
		}
		if name != node {
			return forbidText(a, "can only access CSINode with the same name as the requesting node")
		}
	case "resourceslices.resource.k8s.io":
		return ownSlice(node, a)
	}
	return nil
}

func (p *NodeRestriction) pod(ctx context.Context, node string, a *Attributes) error {
	switch a.Operation {
	case Create:
		pod, ok := a.Object.(*corev1.Pod)
		if !ok {
			return apierrors.NewBadRequest(fmt.Sprintf("unexpected type %T", a.Object))
		}
		return p.mirrorPod(ctx, node, a, pod)
	case Delete:
		pod, err := p.objects.Pod(ctx, a.Namespace, a.Name)
		if err != nil {
			return err
		}
		if pod.Spec.NodeName != node {
			return forbid(a, fmt.Errorf("node %q can only delete pods with spec.nodeName set to itself", node))
		}
		return nil
	}
	return forbid(a, fmt.Errorf("unexpected operation %q, node %q can only create and delete mirror pods", a.Operation, node))
}

// mirrorPod lets a node show its static pods, which must not give it access to anything.
func (p *NodeRestriction) mirrorPod(ctx context.Context, node string, a *Attributes, pod *corev1.Pod) error {
	if _, ok := pod.Annotations[corev1.MirrorPodAnnotationKey]; !ok {
		return forbid(a, fmt.Errorf("pod does not have %q annotation, node %q can only create mirror pods", corev1.MirrorPodAnnotationKey, node))
	}
	if pod.Spec.NodeName != node {
		return forbid(a, fmt.Errorf("node %q can only create pods with spec.nodeName set to itself", node))
	}
	if len(pod.OwnerReferences) > 1 {
		return forbid(a, fmt.Errorf("node %q can only create pods with a single owner reference set to itself", node))
	}
	for _, owner := range pod.OwnerReferences {
		if owner.APIVersion != "v1" || owner.Kind != "Node" || owner.Name != node || owner.Controller == nil || !*owner.Controller {
			return forbid(a, fmt.Errorf("node %q can only create pods with an owner reference set to itself", node))
		}
		if owner.BlockOwnerDeletion != nil && *owner.BlockOwnerDeletion {
			return forbid(a, fmt.Errorf("node %q must not set blockOwnerDeletion on an owner reference", node))
		}
		self, err := p.objects.Node(ctx, node)
		if err != nil {
			return err
		}
		if owner.UID != self.UID {
			return forbid(a, fmt.Errorf("node %s UID mismatch: expected %s got %s", node, owner.UID, self.UID))
		}
	}
	if pod.Spec.ServiceAccountName != "" {
		return forbid(a, fmt.Errorf("node %q can not create pods that reference a service account", node))
	}
	if len(secretsOf(pod)) > 0 || len(pod.Spec.ImagePullSecrets) > 0 {
		return forbid(a, fmt.Errorf("node %q can not create pods that reference secrets", node))
	}
	if len(pod.Spec.ResourceClaims) > 0 {
		return forbid(a, fmt.Errorf("node %q can not create pods that reference resourceclaims", node))
	}
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		switch {
		case v.ConfigMap != nil:
			return forbid(a, fmt.Errorf("node %q can not create pods that reference configmaps", node))
		case v.PersistentVolumeClaim != nil, v.Ephemeral != nil:
			return forbid(a, fmt.Errorf("node %q can not create pods that reference persistentvolumeclaims", node))
		case v.Projected != nil && len(v.Projected.Sources) > 0:
			return forbid(a, fmt.Errorf("node %q can not create pods that use projected volumes", node))
		}
	}
	return nil
}

func (p *NodeRestriction) podStatus(node string, a *Attributes) error {
	if a.Operation != Update {
		return forbid(a, fmt.Errorf("unexpected operation %q", a.Operation))
	}
	old, ok := a.OldObject.(*corev1.Pod)
	if !ok {
		return apierrors.NewBadRequest(fmt.Sprintf("unexpected type %T", a.OldObject))
	}
	if old.Spec.NodeName != node {
		return forbid(a, fmt.Errorf("node %q can only update pod status for pods with spec.nodeName set to itself", node))
	}
	pod, ok := a.Object.(*corev1.Pod)
	if !ok {
		return apierrors.NewBadRequest(fmt.Sprintf("unexpected type %T", a.Object))
	}
	if !apiequality.Semantic.DeepEqual(old.Labels, pod.Labels) {
		return forbid(a, fmt.Errorf("node %q cannot update labels through pod status", node))
	}
	if !apiequality.Semantic.DeepEqual(old.Status.ResourceClaimStatuses, pod.Status.ResourceClaimStatuses) {
		return forbid(a, fmt.Errorf("node %q cannot update resource claim statuses", node))
	}
	if !apiequality.Semantic.DeepEqual(old.Status.ExtendedResourceClaimStatus, pod.Status.ExtendedResourceClaimStatus) {
		return forbid(a, fmt.Errorf("node %q cannot update extended resource claim status", node))
	}
	return nil
}

func (p *NodeRestriction) eviction(ctx context.Context, node string, a *Attributes) error {
	if a.Operation != Create {
		return forbid(a, fmt.Errorf("unexpected operation %s", a.Operation))
	}
	name := a.Name
	if e, ok := a.Object.(*policyv1.Eviction); ok && name == "" {
		name = e.Name
	}
	if name == "" {
		return forbid(a, errors.New("could not determine pod from request data"))
	}
	pod, err := p.objects.Pod(ctx, a.Namespace, name)
	if err != nil {
		return err
	}
	if pod.Spec.NodeName != node {
		return forbid(a, fmt.Errorf("node %s can only evict pods with spec.nodeName set to itself", node))
	}
	return nil
}

func (p *NodeRestriction) node(node string, a *Attributes) error {
	name := a.Name
	obj, _ := a.Object.(*corev1.Node)
	if a.Operation == Create && obj != nil {
		name = obj.Name
	}
	if name != node {
		return forbid(a, fmt.Errorf("node %q is not allowed to modify node %q", node, name))
	}
	if obj == nil {
		return nil
	}
	switch a.Operation {
	case Create:
		if bad := restrictedLabels(nil, obj.Labels); len(bad) > 0 {
			return forbid(a, fmt.Errorf("is not allowed to set the following labels: %s", strings.Join(bad, ", ")))
		}
		if len(obj.OwnerReferences) > 0 {
			return forbid(a, fmt.Errorf("node %q is not allowed to modify ownerReferences", node))
		}
	case Update:
		old, ok := a.OldObject.(*corev1.Node)
		if !ok {
			return apierrors.NewBadRequest(fmt.Sprintf("unexpected type %T", a.OldObject))
		}
		if !apiequality.Semantic.DeepEqual(old.Spec.Taints, obj.Spec.Taints) {
			return forbid(a, fmt.Errorf("node %q is not allowed to modify taints", node))
		}
		if bad := restrictedLabels(old.Labels, obj.Labels); len(bad) > 0 {
			return forbid(a, fmt.Errorf("is not allowed to modify labels: %s", strings.Join(bad, ", ")))
		}
		if !apiequality.Semantic.DeepEqual(old.OwnerReferences, obj.OwnerReferences) {
			return forbid(a, fmt.Errorf("node %q is not allowed to modify ownerReferences", node))
		}
	}
	return nil
}

// restrictedLabels lists the changed labels that a node may not choose for itself: those below node-restriction.kubernetes.io, and
// those of Kubernetes but for the ones that describe the machine.
func restrictedLabels(old, now map[string]string) []string {
	var bad []string
	check := func(key string) {
		namespace, _, ok := strings.Cut(key, "/")
		if !ok {
			return
		}
		within := func(domain string) bool { return namespace == domain || strings.HasSuffix(namespace, "."+domain) }
		switch {
		case within("node-restriction.kubernetes.io"):
			bad = append(bad, key)
		case !within("kubernetes.io") && !within("k8s.io"):
		case within("kubelet.kubernetes.io"), within("node.kubernetes.io"):
		default:
			switch key {
			case corev1.LabelHostname, corev1.LabelOSStable, corev1.LabelArchStable, corev1.LabelTopologyZone, corev1.LabelTopologyRegion,
				corev1.LabelFailureDomainBetaZone, corev1.LabelFailureDomainBetaRegion, corev1.LabelInstanceType,
				"beta.kubernetes.io/os", "beta.kubernetes.io/arch":
			default:
				bad = append(bad, key)
			}
		}
	}
	for k, v := range now {
		if before, ok := old[k]; !ok || before != v {
			check(k)
		}
	}
	for k := range old {
		if _, ok := now[k]; !ok {
			check(k)
		}
	}
	sort.Strings(bad)
	return bad
}

// token lets a node ask for tokens of the accounts of its pods, each bound to such a pod.
func (p *NodeRestriction) token(ctx context.Context, node string, a *Attributes) error {
	tr, ok := a.Object.(*authenticationv1.TokenRequest)
	if !ok {
		return apierrors.NewBadRequest(fmt.Sprintf("unexpected type %T", a.Object))
	}
	ref := tr.Spec.BoundObjectRef
	if ref == nil || ref.APIVersion != "v1" || ref.Kind != "Pod" || ref.Name == "" {
		return forbidText(a, "node requested token not bound to a pod")
	}
	if ref.UID == "" {
		return forbidText(a, "node requested token with a pod binding without a uid")
	}
	pod, err := p.objects.Pod(ctx, a.Namespace, ref.Name)
	if err != nil {
		return err
	}
	if ref.UID != pod.UID {
		return forbid(a, fmt.Errorf("the UID in the bound object reference (%s) does not match the UID in record. The object might have been deleted and then recreated", ref.UID))
	}
	if pod.Spec.NodeName != node {
		return forbidText(a, "node requested token bound to a pod scheduled on a different node")
	}
	if err := p.audience(ctx, a, tr, pod); err != nil {
		return forbid(a, err)
	}
	return nil
}

func ownLease(node string, a *Attributes) error {
	if a.Namespace != corev1.NamespaceNodeLease {
		return forbid(a, fmt.Errorf("can only access leases in the %q system namespace", corev1.NamespaceNodeLease))
	}
	name := a.Name
	if l, ok := a.Object.(*coordinationv1.Lease); ok && a.Operation == Create {
		name = l.Name
	}
	if name != node {
		return forbidText(a, "can only access node lease with the same name as the requesting node")
	}
	return nil
}

func ownSlice(node string, a *Attributes) error {
	nodeOf := func(o any) (string, bool) {
		s, ok := o.(*resourcev1.ResourceSlice)
		if !ok || s == nil || s.Spec.NodeName == nil {
			return "", ok
		}
		return *s.Spec.NodeName, true
	}
	for _, o := range []any{a.Object, a.OldObject} {
		if name, ok := nodeOf(o); ok && name != node {
			if a.Operation == Create {
				return forbidText(a, "can only create ResourceSlice with the same NodeName as the requesting node")
			}
			return forbid(a, fmt.Errorf("can only %s ResourceSlice with the same NodeName as the requesting node", strings.ToLower(string(a.Operation))))
		}
	}
	return nil
}
