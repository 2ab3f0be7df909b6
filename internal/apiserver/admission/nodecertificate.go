package admission

import (
	"context"
	"fmt"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/celox/celox/internal/apiserver/request"
)

// certificateRequest lets a node ask for a certificate for a pod that runs on it, as the account that the pod runs as, of a signer that a volume of the
// pod names (KEP-4317). What does not fit but may be only a moment old is a plain error: the node tries again.
func (p *NodeRestriction) certificateRequest(ctx context.Context, node string, a *Attributes) error {
	if a.Operation != Create {
		return forbid(a, fmt.Errorf("unexpected operation %v", a.Operation))
	}
	if a.Subresource != "" {
		return forbid(a, fmt.Errorf("unexpected subresource %v", a.Subresource))
	}
	r, ok := a.Object.(*certificatesv1.PodCertificateRequest)
	if !ok {
		return forbid(a, fmt.Errorf("unexpected type %T", a.Object))
	}
	if string(r.Spec.NodeName) != node {
		return forbid(a, fmt.Errorf("PodCertificateRequest.Spec.NodeName=%q, which is not the requesting node %q", r.Spec.NodeName, node))
	}
	// missing is an error of looking something up: only what is not there may come yet.
	missing := func(err error, format string, args ...any) error {
		err = fmt.Errorf("while retrieving "+format+" named in the PodCertificateRequest: %w", append(args, err)...)
		if apierrors.IsNotFound(err) {
			return err
		}
		return forbid(a, err)
	}
	self, err := p.objects.Node(ctx, node)
	if err != nil {
		return missing(err, "node %q", node)
	}
	path := a.Namespace + "/" + r.Spec.PodName
	if self.UID != r.Spec.NodeUID {
		return fmt.Errorf("PodCertificateRequest for pod %q names node UID %q, inconsistent with the running node (%q)", path, r.Spec.NodeUID, self.UID)
	}
	pod, err := p.objects.Pod(ctx, a.Namespace, r.Spec.PodName)
	if err != nil {
		return missing(err, "pod %q", path)
	}
	if pod.UID != r.Spec.PodUID {
		return fmt.Errorf("PodCertificateRequest for pod %q contains pod UID (%q) which differs from running pod %q", path, r.Spec.PodUID, pod.UID)
	}
	if pod.Spec.NodeName != node {
		return forbid(a, fmt.Errorf("pod %q is not running on node %q named in the PodCertificateRequest", path, node))
	}
	if _, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]; mirror {
		return forbid(a, fmt.Errorf("pod %q is a mirror pod", path))
	}
	if r.Spec.ServiceAccountName != pod.Spec.ServiceAccountName {
		return forbid(a, fmt.Errorf("PodCertificateRequest for pod %q contains serviceAccountName (%q) that differs from running pod (%q)", path, r.Spec.ServiceAccountName, pod.Spec.ServiceAccountName))
	}
	account, err := p.objects.ServiceAccount(ctx, a.Namespace, r.Spec.ServiceAccountName)
	if err != nil {
		return missing(err, "service account %q", a.Namespace+"/"+r.Spec.ServiceAccountName)
	}
	if account.UID != r.Spec.ServiceAccountUID {
		return fmt.Errorf("PodCertificateRequest for pod %q names service account UID %q, which differs from the running service account (%q)", path, r.Spec.ServiceAccountUID, account.UID)
	}
	if err := p.signer(ctx, a, pod, r); err != nil {
		return forbid(a, err)
	}
	return nil
}

// signer wants a signer that a volume of the pod names, or that the node was expressly allowed to ask.
func (p *NodeRestriction) signer(ctx context.Context, a *Attributes, pod *corev1.Pod, r *certificatesv1.PodCertificateRequest) error {
	for i := range pod.Spec.Volumes {
		v := pod.Spec.Volumes[i].Projected
		if v == nil {
			continue
		}
		for j := range v.Sources {
			if c := v.Sources[j].PodCertificate; c != nil && c.SignerName == r.Spec.SignerName {
				return nil
			}
		}
	}
	if p.authorizer != nil {
		d, _, err := p.authorizer.Authorize(ctx, request.Attributes{
			User: a.User, Verb: "request-serviceaccounts-podcertificate-signer", Namespace: a.Namespace, Group: a.Resource.Group, Version: a.Resource.Version,
			Resource: strings.ReplaceAll(r.Spec.SignerName, "/", ":"), Name: r.Spec.ServiceAccountName, ResourceRequest: true,
		})
		if d == request.Allow {
			return nil
		}
		if err != nil {
			return fmt.Errorf("error authorizing %s to request podcertificaterequests for signer %q: %w", a.User.GetName(), r.Spec.SignerName, err)
		}
	}
	return fmt.Errorf("pod %q does not mount a podCertificate projected volume for signer %q", a.Namespace+"/"+r.Spec.PodName, r.Spec.SignerName)
}
