package admission

import (
	"context"
	"errors"
	"fmt"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/celox/celox/internal/apiserver/request"
)

// Volumes finds claims, volumes and storage drivers.
type Volumes interface {
	PersistentVolumeClaim(ctx context.Context, namespace, name string) (*corev1.PersistentVolumeClaim, error)
	PersistentVolume(ctx context.Context, name string) (*corev1.PersistentVolume, error)
	CSIDriver(ctx context.Context, name string) (*storagev1.CSIDriver, error)
}

// audience lets a node ask for tokens of the one audience that a volume of the pod wants, or that it was expressly allowed
// (KEP-4412).
func (p *NodeRestriction) audience(ctx context.Context, a *Attributes, tr *authenticationv1.TokenRequest, pod *corev1.Pod) error {
	wanted := ""
	switch len(tr.Spec.Audiences) {
	case 0:
	case 1:
		wanted = tr.Spec.Audiences[0]
	default:
		return errors.New("node may only request 0 or 1 audiences")
	}
	found, err := p.wants(ctx, pod, wanted)
	if err != nil {
		return fmt.Errorf("error validating audience %q: %w", wanted, err)
	}
	if found {
		return nil
	}
	if p.authorizer != nil {
		d, _, err := p.authorizer.Authorize(ctx, request.Attributes{
			User: a.User, Verb: "request-serviceaccounts-token-audience", Namespace: a.Namespace, Resource: wanted, Name: a.Name, ResourceRequest: true,
		})
		if err == nil && d == request.Allow {
			return nil
		}
	}
	return fmt.Errorf("audience %q not found in pod spec volume", wanted)
}

// wants says whether a volume of the pod needs a token of this audience: a projected one, or one whose driver asks for it.
func (p *NodeRestriction) wants(ctx context.Context, pod *corev1.Pod, audience string) (bool, error) {
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		driver, claim := "", ""
		switch {
		case v.Projected != nil:
			for _, s := range v.Projected.Sources {
				if t := s.ServiceAccountToken; t != nil && t.Audience == audience {
					return true, nil
				}
			}
		case v.CSI != nil:
			driver = v.CSI.Driver
		case v.PersistentVolumeClaim != nil:
			claim = v.PersistentVolumeClaim.ClaimName
		case v.Ephemeral != nil:
			claim = pod.Name + "-" + v.Name
		}
		if claim != "" {
			var err error
			if driver, err = p.driverOf(ctx, pod.Namespace, claim); err != nil {
				return false, err
			}
		}
		if driver == "" {
			continue
		}
		d, err := p.volumes.CSIDriver(ctx, driver)
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return false, err
		}
		for _, t := range d.Spec.TokenRequests {
			if t.Audience == audience {
				return true, nil
			}
		}
	}
	return false, nil
}

// driverOf finds the driver of the volume behind a claim; "" if it has none.
func (p *NodeRestriction) driverOf(ctx context.Context, namespace, claim string) (string, error) {
	c, err := p.volumes.PersistentVolumeClaim(ctx, namespace, claim)
	if apierrors.IsNotFound(err) || err == nil && c.Spec.VolumeName == "" {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	v, err := p.volumes.PersistentVolume(ctx, c.Spec.VolumeName)
	if apierrors.IsNotFound(err) || err == nil && v.Spec.CSI == nil {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	return v.Spec.CSI.Driver, nil
}
