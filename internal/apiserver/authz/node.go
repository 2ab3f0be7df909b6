package authz

import (
	"context"
	"fmt"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/celox/celox/internal/apiserver/request"
)

// NodeObjects are what the node authorizer looks at. A missing object is a NotFound error.
type NodeObjects interface {
	Pod(ctx context.Context, namespace, name string) (*corev1.Pod, error)
	PodsOnNode(ctx context.Context, node string) ([]*corev1.Pod, error)
	PersistentVolumeClaim(ctx context.Context, namespace, name string) (*corev1.PersistentVolumeClaim, error)
	PersistentVolume(ctx context.Context, name string) (*corev1.PersistentVolume, error)
	VolumeAttachment(ctx context.Context, name string) (*storagev1.VolumeAttachment, error)
	PodCertificateRequest(ctx context.Context, namespace, name string) (*certificatesv1.PodCertificateRequest, error)
	ResourceSlice(ctx context.Context, name string) (*resourcev1.ResourceSlice, error)
}

// Nodes is the node authorizer: the users system:node:NAME in the group system:nodes may read what the pods bound to their node
// name, may write their own objects, and hold some rules that all nodes hold.
type Nodes struct {
	objects NodeObjects
	rules   []rbacv1.PolicyRule
	served  func(ctx context.Context, namespace, name string) (bool, error)
}

// NewNodes returns the node authorizer; rules are what a node may do without being related to the object: those of the
// cluster role system:node. Where a relationship is asked for, they don't count.
func NewNodes(objects NodeObjects, rules []rbacv1.PolicyRule) *Nodes {
	return &Nodes{objects: objects, rules: rules}
}

// Serving lets every node read the secrets that served says are for all of them, as the certificates of what each node serves are. It is called before the
// authorizer is used.
func (n *Nodes) Serving(served func(ctx context.Context, namespace, name string) (bool, error)) *Nodes {
	n.served = served
	return n
}

const nodeUserPrefix = "system:node:"

// nodeName returns the node that a user is.
func nodeName(u user.Info) (string, bool) {
	name, ok := strings.CutPrefix(u.GetName(), nodeUserPrefix)
	return name, ok && slices.Contains(u.GetGroups(), user.NodesGroup)
}

// NodeName returns the name of the node that u is, and whether it is one.
func NodeName(u user.Info) (string, bool) { return nodeName(u) }

// Authorize allows, or has no opinion and says why; others than nodes it does not judge.
func (n *Nodes) Authorize(ctx context.Context, a request.Attributes) (request.Decision, string, error) {
	node, ok := nodeName(a.User)
	if !ok {
		return request.NoOpinion, "", nil
	}
	if node == "" {
		return request.NoOpinion, fmt.Sprintf("unknown node for user %q", a.User.GetName()), nil
	}
	if !a.ResourceRequest {
		return request.NoOpinion, "", nil
	}
	switch a.Group + "/" + a.Resource {
	case "/secrets", "/configmaps":
		return n.readRelated(ctx, node, a)
	case "/persistentvolumeclaims":
		if a.Subresource == "status" {
			return n.updateRelated(ctx, node, a)
		}
		return n.getRelated(ctx, node, a)
	case "/persistentvolumes", "storage.k8s.io/volumeattachments", "resource.k8s.io/resourceclaims":
		return n.getRelated(ctx, node, a)
	case "resource.k8s.io/resourceslices":
		return n.ownSlices(ctx, node, a)
	case "/serviceaccounts":
		return n.accountsOfPods(ctx, node, a)
	case "certificates.k8s.io/podcertificaterequests":
		return n.ownCertificateRequests(ctx, node, a)
	case "coordination.k8s.io/leases":
		return ownLease(node, a)
	case "storage.k8s.io/csinodes":
		return ownCSINode(node, a)
	}
	resource := a.Resource
	if a.Subresource != "" {
		resource += "/" + a.Subresource
	}
	for i := range n.rules {
		if ruleAllows(&n.rules[i], &a, resource) {
			return request.Allow, "", nil
		}
	}
	return request.NoOpinion, "", nil
}

// getRelated allows reading one named object that the node has to do with.
func (n *Nodes) getRelated(ctx context.Context, node string, a request.Attributes) (request.Decision, string, error) {
	switch {
	case a.Verb != "get":
		return request.NoOpinion, "can only get individual resources of this type", nil
	case a.Subresource != "":
		return request.NoOpinion, "cannot get subresource", nil
	}
	return n.related(ctx, node, a)
}

// readRelated allows the same, and lists and watches of that one object.
func (n *Nodes) readRelated(ctx context.Context, node string, a request.Attributes) (request.Decision, string, error) {
	switch {
	case a.Verb != "get" && a.Verb != "list" && a.Verb != "watch":
		return request.NoOpinion, "can only read resources of this type", nil
	case a.Subresource != "":
		return request.NoOpinion, "cannot read subresource", nil
	case a.Namespace == "":
		return request.NoOpinion, "can only read namespaced object of this type", nil
	}
	return n.related(ctx, node, a)
}

// updateRelated allows writing the status of one named object that the node has to do with.
func (n *Nodes) updateRelated(ctx context.Context, node string, a request.Attributes) (request.Decision, string, error) {
	if a.Verb != "update" && a.Verb != "patch" {
		return request.NoOpinion, "can only get/update/patch this type", nil
	}
	return n.related(ctx, node, a)
}

// accountsOfPods lets a node read the accounts of its pods, and make tokens of them.
func (n *Nodes) accountsOfPods(ctx context.Context, node string, a request.Attributes) (request.Decision, string, error) {
	switch {
	case a.Verb == "get" && a.Subresource == "":
		return n.readRelated(ctx, node, a)
	case a.Verb != "create" || a.Name == "":
		return request.NoOpinion, "can only create tokens for individual service accounts", nil
	case a.Subresource != "token":
		return request.NoOpinion, "can only create token subresource of serviceaccount", nil
	}
	return n.related(ctx, node, a)
}

func (n *Nodes) related(ctx context.Context, node string, a request.Attributes) (request.Decision, string, error) {
	if a.Name == "" {
		return request.NoOpinion, "No Object name found", nil
	}
	ok, err := n.isRelated(ctx, node, a)
	if err != nil && !apierrors.IsNotFound(err) {
		return request.NoOpinion, "", err
	}
	if !ok {
		return request.NoOpinion, fmt.Sprintf("no relationship found between node '%s' and this object", node), nil
	}
	return request.Allow, "", nil
}

func (n *Nodes) isRelated(ctx context.Context, node string, a request.Attributes) (bool, error) {
	switch a.Resource {
	case "volumeattachments":
		va, err := n.objects.VolumeAttachment(ctx, a.Name)
		return err == nil && va.Spec.NodeName == node, err
	case "podcertificaterequests":
		r, err := n.objects.PodCertificateRequest(ctx, a.Namespace, a.Name)
		return err == nil && string(r.Spec.NodeName) == node, err
	case "resourceslices":
		s, err := n.objects.ResourceSlice(ctx, a.Name)
		return err == nil && s.Spec.NodeName != nil && *s.Spec.NodeName == node, err
	}
	pods, err := n.objects.PodsOnNode(ctx, node)
	if err != nil {
		return false, err
	}
	for _, pod := range pods {
		if a.Namespace != "" && pod.Namespace != a.Namespace {
			continue
		}
		found := false
		switch a.Resource {
		case "secrets":
			found = namesSecret(pod, a.Name) || n.volumeNamesSecret(ctx, pod, a.Name)
		case "configmaps":
			found = namesConfigMap(pod, a.Name)
		case "persistentvolumeclaims":
			found = slices.Contains(claimsOf(pod), a.Name)
		case "persistentvolumes":
			found = n.usesVolume(ctx, pod, a.Name)
		case "serviceaccounts":
			found = pod.Spec.ServiceAccountName == a.Name
		case "resourceclaims":
			found = usesResourceClaim(pod, a.Name)
		}
		// A mirror of a static pod must not give access to anything.
		if _, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]; found && !mirror {
			return true, nil
		}
	}
	if a.Resource == "secrets" && n.served != nil {
		return n.served(ctx, a.Namespace, a.Name)
	}
	return false, nil
}

func containersOf(pod *corev1.Pod, visit func(env []corev1.EnvVar, from []corev1.EnvFromSource)) {
	for i := range pod.Spec.InitContainers {
		visit(pod.Spec.InitContainers[i].Env, pod.Spec.InitContainers[i].EnvFrom)
	}
	for i := range pod.Spec.Containers {
		visit(pod.Spec.Containers[i].Env, pod.Spec.Containers[i].EnvFrom)
	}
	for i := range pod.Spec.EphemeralContainers {
		visit(pod.Spec.EphemeralContainers[i].Env, pod.Spec.EphemeralContainers[i].EnvFrom)
	}
}

func namesSecret(pod *corev1.Pod, name string) (found bool) {
	for _, ref := range pod.Spec.ImagePullSecrets {
		if ref.Name == name {
			return true
		}
	}
	is := func(ref *corev1.LocalObjectReference) bool { return ref != nil && ref.Name == name }
	for i := range pod.Spec.Volumes {
		switch v := &pod.Spec.Volumes[i]; {
		case v.Secret != nil:
			found = v.Secret.SecretName == name
		case v.Projected != nil:
			for _, s := range v.Projected.Sources {
				found = found || s.Secret != nil && s.Secret.Name == name
			}
		case v.CSI != nil:
			found = is(v.CSI.NodePublishSecretRef)
		case v.AzureFile != nil:
			found = v.AzureFile.SecretName == name
		case v.CephFS != nil:
			found = is(v.CephFS.SecretRef)
		case v.Cinder != nil:
			found = is(v.Cinder.SecretRef)
		case v.FlexVolume != nil:
			found = is(v.FlexVolume.SecretRef)
		case v.ISCSI != nil:
			found = is(v.ISCSI.SecretRef)
		case v.RBD != nil:
			found = is(v.RBD.SecretRef)
		case v.ScaleIO != nil:
			found = is(v.ScaleIO.SecretRef)
		case v.StorageOS != nil:
			found = is(v.StorageOS.SecretRef)
		}
		if found {
			return true
		}
	}
	containersOf(pod, func(env []corev1.EnvVar, from []corev1.EnvFromSource) {
		for i := range env {
			v := env[i].ValueFrom
			found = found || v != nil && v.SecretKeyRef != nil && v.SecretKeyRef.Name == name
		}
		for i := range from {
			found = found || from[i].SecretRef != nil && from[i].SecretRef.Name == name
		}
	})
	return found
}

func namesConfigMap(pod *corev1.Pod, name string) (found bool) {
	for i := range pod.Spec.Volumes {
		switch v := &pod.Spec.Volumes[i]; {
		case v.ConfigMap != nil:
			found = v.ConfigMap.Name == name
		case v.Projected != nil:
			for _, s := range v.Projected.Sources {
				found = found || s.ConfigMap != nil && s.ConfigMap.Name == name
			}
		}
		if found {
			return true
		}
	}
	containersOf(pod, func(env []corev1.EnvVar, from []corev1.EnvFromSource) {
		for i := range env {
			v := env[i].ValueFrom
			found = found || v != nil && v.ConfigMapKeyRef != nil && v.ConfigMapKeyRef.Name == name
		}
		for i := range from {
			found = found || from[i].ConfigMapRef != nil && from[i].ConfigMapRef.Name == name
		}
	})
	return found
}

// claimsOf lists the claims that a pod's volumes name, those made for generic ephemeral volumes included.
func claimsOf(pod *corev1.Pod) []string {
	var out []string
	for i := range pod.Spec.Volumes {
		switch v := &pod.Spec.Volumes[i]; {
		case v.PersistentVolumeClaim != nil:
			out = append(out, v.PersistentVolumeClaim.ClaimName)
		case v.Ephemeral != nil:
			out = append(out, pod.Name+"-"+v.Name)
		}
	}
	return out
}

// volumesOf visits the volumes that a pod's claims are bound to.
func (n *Nodes) volumesOf(ctx context.Context, pod *corev1.Pod, visit func(*corev1.PersistentVolume) bool) bool {
	for _, name := range claimsOf(pod) {
		claim, err := n.objects.PersistentVolumeClaim(ctx, pod.Namespace, name)
		if err != nil || claim.Spec.VolumeName == "" {
			continue
		}
		pv, err := n.objects.PersistentVolume(ctx, claim.Spec.VolumeName)
		// The volume must point back, or a claim could reach for somebody else's.
		if err != nil || pv.Spec.ClaimRef == nil || pv.Spec.ClaimRef.Namespace != pod.Namespace || pv.Spec.ClaimRef.Name != name {
			continue
		}
		if visit(pv) {
			return true
		}
	}
	return false
}

func (n *Nodes) usesVolume(ctx context.Context, pod *corev1.Pod, name string) bool {
	return n.volumesOf(ctx, pod, func(pv *corev1.PersistentVolume) bool { return pv.Name == name })
}

func (n *Nodes) volumeNamesSecret(ctx context.Context, pod *corev1.Pod, name string) bool {
	is := func(ref *corev1.SecretReference) bool {
		return ref != nil && ref.Name == name && (ref.Namespace == "" || ref.Namespace == pod.Namespace)
	}
	return n.volumesOf(ctx, pod, func(pv *corev1.PersistentVolume) bool {
		switch s := &pv.Spec.PersistentVolumeSource; {
		case s.CSI != nil:
			return is(s.CSI.NodePublishSecretRef) || is(s.CSI.NodeStageSecretRef) || is(s.CSI.NodeExpandSecretRef)
		case s.AzureFile != nil:
			return s.AzureFile.SecretName == name
		case s.CephFS != nil:
			return is(s.CephFS.SecretRef)
		case s.Cinder != nil:
			return is(s.Cinder.SecretRef)
		case s.FlexVolume != nil:
			return is(s.FlexVolume.SecretRef)
		case s.ISCSI != nil:
			return is(s.ISCSI.SecretRef)
		case s.RBD != nil:
			return is(s.RBD.SecretRef)
		case s.ScaleIO != nil:
			return is(s.ScaleIO.SecretRef)
		}
		return false
	})
}

func usesResourceClaim(pod *corev1.Pod, name string) bool {
	for i := range pod.Spec.ResourceClaims {
		if ref := pod.Spec.ResourceClaims[i].ResourceClaimName; ref != nil && *ref == name {
			return true
		}
	}
	for i := range pod.Status.ResourceClaimStatuses {
		if ref := pod.Status.ResourceClaimStatuses[i].ResourceClaimName; ref != nil && *ref == name {
			return true
		}
	}
	st := pod.Status.ExtendedResourceClaimStatus
	return st != nil && st.ResourceClaimName == name
}

// selectsOwn says whether only objects of the node are asked for.
func selectsOwn(a request.Attributes, node string) bool {
	selector, err := fields.ParseSelector(a.FieldSelector)
	if err != nil {
		return false
	}
	name, ok := selector.RequiresExactMatch("spec.nodeName")
	return ok && name == node
}

// ownSlices lets a node work on the resource slices that are its own; NodeRestriction looks at new ones.
func (n *Nodes) ownSlices(ctx context.Context, node string, a request.Attributes) (request.Decision, string, error) {
	if a.Subresource != "" {
		return request.NoOpinion, "cannot authorize ResourceSlice subresources", nil
	}
	switch a.Verb {
	case "create":
		return request.Allow, "", nil
	case "get", "update", "patch", "delete":
		return n.related(ctx, node, a)
	case "watch", "list", "deletecollection":
		if selectsOwn(a, node) {
			return request.Allow, "", nil
		}
		return request.NoOpinion, "can only list/watch/deletecollection resourceslices with nodeName field selector", nil
	}
	return request.NoOpinion, "only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, delete, deletecollection", nil
}

// ownCertificateRequests lets a node ask for the certificates of its pods and see the answers; NodeRestriction looks at what it asks for (KEP-4317).
func (n *Nodes) ownCertificateRequests(ctx context.Context, node string, a request.Attributes) (request.Decision, string, error) {
	if a.Subresource != "" {
		return request.NoOpinion, "nodes may not access the status subresource of PodCertificateRequests", nil
	}
	switch a.Verb {
	case "create":
		return request.Allow, "", nil
	case "get":
		return n.related(ctx, node, a)
	case "list", "watch":
		if selectsOwn(a, node) {
			return request.Allow, "", nil
		}
		return request.NoOpinion, "can only list/watch podcertificaterequests with nodeName field selector", nil
	}
	return request.NoOpinion, fmt.Sprintf("nodes may not %s podcertificaterequests", a.Verb), nil
}

func ownLease(node string, a request.Attributes) (request.Decision, string, error) {
	switch a.Verb {
	case "get", "create", "update", "patch", "delete":
	default:
		return request.NoOpinion, "can only get, create, update, patch, or delete a node lease", nil
	}
	if a.Namespace != corev1.NamespaceNodeLease {
		return request.NoOpinion, fmt.Sprintf("can only access leases in the %q system namespace", corev1.NamespaceNodeLease), nil
	}
	// The name of a new object is not known yet; NodeRestriction looks at it.
	if a.Verb != "create" && a.Name != node {
		return request.NoOpinion, "can only access node lease with the same name as the requesting node", nil
	}
	return request.Allow, "", nil
}

// ownCSINode does not let a node write the status: that is for a feature that is off (CSIVolumeHealth).
func ownCSINode(node string, a request.Attributes) (request.Decision, string, error) {
	switch a.Subresource {
	case "":
	case "status":
		return request.NoOpinion, "CSINode status access requires CSIVolumeHealth feature", nil
	default:
		return request.NoOpinion, "cannot authorize CSINode subresources", nil
	}
	switch a.Verb {
	case "get", "create", "update", "patch", "delete":
	default:
		return request.NoOpinion, "can only get, create, update, patch, or delete a CSINode", nil
	}
	if a.Verb != "create" && a.Name != node {
		return request.NoOpinion, "can only access CSINode with the same name as the requesting node", nil
	}
	return request.Allow, "", nil
}
