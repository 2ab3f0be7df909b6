package certificates

import (
	"context"
	"crypto"
	"crypto/x509"
	"fmt"
	"log/slog"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	certificateslisters "k8s.io/client-go/listers/certificates/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/clock"

	"github.com/celox/celox/internal/client/informers"
	"github.com/celox/celox/internal/controller"
)

// Controller reconciles CertificateSigningRequests.
type Controller struct {
	client    kubernetes.Interface
	requests  certificateslisters.CertificateSigningRequestLister
	authority authority
	clock     clock.PassiveClock
	loop      *controller.Loop
}

// New makes the controller and registers it with the informers, which the caller starts. It signs with key in the name of ca.
func New(c kubernetes.Interface, f *informers.Factory, ca *x509.Certificate, key crypto.Signer, clk clock.PassiveClock, log *slog.Logger, m *controller.Metrics) (*Controller, error) {
	requests := f.Certificates().V1().CertificateSigningRequests()
	ctl := &Controller{client: c, requests: requests.Lister(), authority: authority{ca, key}, clock: clk}
	ctl.loop = controller.NewLoop("certificate", ctl.Reconcile, controller.Options{
		Synced: []cache.InformerSynced{requests.Informer().HasSynced}, Log: log, Metrics: m, MinBackoff: 200 * time.Millisecond, // a review that refuses is asked for again
	})
	if err := controller.Watch(requests.Informer(), controller.Handlers[*certificatesv1.CertificateSigningRequest]{
		Changed: func(csr *certificatesv1.CertificateSigningRequest) { ctl.loop.AddObject(csr) },
	}); err != nil {
		return nil, fmt.Errorf("certificates: %w", err)
	}
	return ctl, nil
}

// Run reconciles until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

// Reconcile takes a request a step further: approval, certificate, removal.
func (c *Controller) Reconcile(ctx context.Context, key string) error {
	csr, err := c.requests.Get(key)
	if apierrors.IsNotFound(err) {
		return nil
	} else if err != nil {
		return fmt.Errorf("get request: %w", err)
	}
	left := over(csr).Sub(c.clock.Now())
	if left <= 0 {
		err := c.client.CertificatesV1().CertificateSigningRequests().Delete(ctx, csr.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(csr.UID))})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("unable to delete csr %q: %w", csr.Name, err)
		}
		return nil
	}
	c.loop.AddAfter(key, left)
	if len(csr.Status.Certificate) > 0 || conditionOf(csr, certificatesv1.CertificateDenied) != nil || conditionOf(csr, certificatesv1.CertificateFailed) != nil {
		return nil
	}
	if conditionOf(csr, certificatesv1.CertificateApproved) == nil {
		return c.approve(ctx, csr.DeepCopy())
	}
	return c.issue(ctx, csr.DeepCopy())
}

// approve approves a request of a kubelet for its client certificate, if it may ask for one: for its own node, or for a node at all.
func (c *Controller) approve(ctx context.Context, csr *certificatesv1.CertificateSigningRequest) error {
	if csr.Spec.SignerName != certificatesv1.KubeAPIServerClientKubeletSignerName {
		return nil
	}
	req, err := parse(csr)
	if err != nil {
		return err
	}
	if checkKubeletClient(req, csr.Spec.Usages) != nil {
		return nil // for somebody else to judge
	}
	type permission struct{ subresource, message string }
	var asked []permission
	if csr.Spec.Username == req.Subject.CommonName {
		asked = append(asked, permission{"selfnodeclient", "Auto approving self kubelet client certificate after SubjectAccessReview."})
	}
	asked = append(asked, permission{"nodeclient", "Auto approving kubelet client certificate after SubjectAccessReview."})
	var tried []string
	for _, p := range asked {
		may, err := c.may(ctx, csr, p.subresource)
		if err != nil {
			return err
		}
		if may {
			csr.Status.Conditions = append(csr.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
				Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "AutoApproved", Message: p.message,
			})
			if _, err := c.client.CertificatesV1().CertificateSigningRequests().UpdateApproval(ctx, csr.Name, csr, metav1.UpdateOptions{}); err != nil {
				return fmt.Errorf("error updating approval for csr: %w", err)
			}
			return nil
		}
		tried = append(tried, p.subresource)
	}
	// A binding may come later: the growing pauses of the queue ask again.
	return fmt.Errorf("recognized csr %q as %v but subject access review was not approved", csr.Name, tried)
}

// may asks whether who made a request may create the subresource that stands for the permission.
func (c *Controller) may(ctx context.Context, csr *certificatesv1.CertificateSigningRequest, subresource string) (bool, error) {
	extra := map[string]authorizationv1.ExtraValue{}
	for k, v := range csr.Spec.Extra {
		extra[k] = authorizationv1.ExtraValue(v)
	}
	review, err := c.client.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User: csr.Spec.Username, UID: csr.Spec.UID, Groups: csr.Spec.Groups, Extra: extra,
		ResourceAttributes: &authorizationv1.ResourceAttributes{Group: certificatesv1.GroupName, Version: "*", Resource: "certificatesigningrequests", Subresource: subresource, Verb: "create"},
	}}, metav1.CreateOptions{})
	if err != nil {
		return false, fmt.Errorf("subject access review: %w", err)
	}
	return review.Status.Allowed, nil
}

// issue signs an approved request, or says in its conditions why it never will.
func (c *Controller) issue(ctx context.Context, csr *certificatesv1.CertificateSigningRequest) error {
	if !serves(csr.Spec.SignerName) {
		return nil
	}
	req, err := parse(csr)
	if err != nil {
		return err
	}
	now := c.clock.Now()
	if wrong := check(csr.Spec.SignerName, req, csr.Spec.Usages); wrong != nil {
		csr.Status.Conditions = append(csr.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
			Type: certificatesv1.CertificateFailed, Status: corev1.ConditionTrue, Reason: "SignerValidationFailure", Message: wrong.Error(), LastUpdateTime: metav1.NewTime(now),
		})
	} else if csr.Status.Certificate, err = c.authority.sign(req, csr.Spec.Usages, csr.Spec.ExpirationSeconds, now); err != nil {
		return fmt.Errorf("error auto signing csr: %w", err)
	}
	if _, err := c.client.CertificatesV1().CertificateSigningRequests().UpdateStatus(ctx, csr, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("error updating signature for csr: %w", err)
	}
	return nil
}
