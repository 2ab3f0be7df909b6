package admission

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// StorageClasses finds storage classes.
type StorageClasses interface {
	StorageClass(ctx context.Context, name string) (*storagev1.StorageClass, error)
	StorageClasses(ctx context.Context) ([]*storagev1.StorageClass, error)
}

const (
	defaultStorageClass     = "storageclass.kubernetes.io/is-default-class"
	betaDefaultStorageClass = "storageclass.beta.kubernetes.io/is-default-class"
)

// newestDefault returns the object that says of itself that it is the default; of several the newest, and of those the
// first by name.
func newestDefault[T metav1.Object](all []T, isDefault func(T) bool) (found T, ok bool) {
	for _, c := range all {
		if !isDefault(c) {
			continue
		}
		a, b := c.GetCreationTimestamp(), metav1.Time{}
		if ok {
			b = found.GetCreationTimestamp()
		}
		if !ok || a.After(b.Time) || a.Equal(&b) && c.GetName() < found.GetName() {
			found, ok = c, true
		}
	}
	return found, ok
}

// DefaultStorageClass gives claims that name no class the default one.
type DefaultStorageClass struct{ objects StorageClasses }

// NewDefaultStorageClass returns the plugin.
func NewDefaultStorageClass(objects StorageClasses) *DefaultStorageClass {
	return &DefaultStorageClass{objects: objects}
}

// Admit completes a new claim.
func (p *DefaultStorageClass) Admit(ctx context.Context, a *Attributes) error {
	claim, ok := a.Object.(*corev1.PersistentVolumeClaim)
	if !ok || a.Operation != Create || !a.is("", "persistentvolumeclaims", "") {
		return nil
	}
	if _, named := claim.Annotations[corev1.BetaStorageClassAnnotation]; named || claim.Spec.StorageClassName != nil {
		return nil
	}
	all, err := p.objects.StorageClasses(ctx)
	if err != nil {
		return err
	}
	class, ok := newestDefault(all, func(c *storagev1.StorageClass) bool {
		return c.Annotations[defaultStorageClass] == "true" || c.Annotations[betaDefaultStorageClass] == "true"
	})
	if ok {
		claim.Spec.StorageClassName = &class.Name
	}
	return nil
}

// StorageObjectInUseProtection adds the finalizers that keep claims, volumes and attribute classes while they are used.
type StorageObjectInUseProtection struct{}

// Admit completes a new object.
func (StorageObjectInUseProtection) Admit(_ context.Context, a *Attributes) error {
	if a.Operation != Create || a.Subresource != "" {
		return nil
	}
	var finalizer string
	switch a.groupResource().String() {
	case "persistentvolumeclaims":
		finalizer = "kubernetes.io/pvc-protection"
	case "persistentvolumes":
		finalizer = "kubernetes.io/pv-protection"
	case "volumeattributesclasses.storage.k8s.io":
		finalizer = "kubernetes.io/vac-protection"
	default:
		return nil
	}
	obj, ok := a.Object.(metav1.Object)
	if ok && !slices.Contains(obj.GetFinalizers(), finalizer) {
		obj.SetFinalizers(append(slices.Clone(obj.GetFinalizers()), finalizer))
	}
	return nil
}

// PersistentVolumeClaimResize refuses to enlarge claims whose class cannot do that.
type PersistentVolumeClaimResize struct{ objects StorageClasses }

// NewPersistentVolumeClaimResize returns the plugin.
func NewPersistentVolumeClaimResize(objects StorageClasses) *PersistentVolumeClaimResize {
	return &PersistentVolumeClaimResize{objects: objects}
}

// Validate looks at claims that grow.
func (p *PersistentVolumeClaimResize) Validate(ctx context.Context, a *Attributes) error {
	claim, ok := a.Object.(*corev1.PersistentVolumeClaim)
	if !ok || a.Operation != Update || !a.is("", "persistentvolumeclaims", "") {
		return nil
	}
	old, ok := a.OldObject.(*corev1.PersistentVolumeClaim)
	if !ok {
		return nil
	}
	size, before := claim.Spec.Resources.Requests[corev1.ResourceStorage], old.Spec.Resources.Requests[corev1.ResourceStorage]
	if size.Cmp(before) <= 0 {
		return nil
	}
	if old.Status.Phase != corev1.ClaimBound {
		return forbidText(a, "Only bound persistent volume claims can be expanded")
	}
	name := old.Annotations[corev1.BetaStorageClassAnnotation]
	if name == "" && claim.Spec.StorageClassName != nil {
		name = *claim.Spec.StorageClassName
	}
	if name != "" {
		class, err := p.objects.StorageClass(ctx, name)
		if err != nil && !apierrors.IsNotFound(err) {
			return err
		}
		if err == nil && class.AllowVolumeExpansion != nil && *class.AllowVolumeExpansion {
			return nil
		}
	}
	return forbidText(a, "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize")
}

// IngressClasses finds ingress classes.
type IngressClasses interface {
	IngressClasses(ctx context.Context) ([]*networkingv1.IngressClass, error)
}

// DefaultIngressClass gives ingresses that name no class the default one.
type DefaultIngressClass struct{ objects IngressClasses }

// NewDefaultIngressClass returns the plugin.
func NewDefaultIngressClass(objects IngressClasses) *DefaultIngressClass {
	return &DefaultIngressClass{objects: objects}
}

// Admit completes a new ingress.
func (p *DefaultIngressClass) Admit(ctx context.Context, a *Attributes) error {
	ingress, ok := a.Object.(*networkingv1.Ingress)
	if !ok || a.Operation != Create || a.Subresource != "" || ingress.Spec.IngressClassName != nil {
		return nil
	}
	// The annotation is from before there were classes.
	if _, named := ingress.Annotations["kubernetes.io/ingress.class"]; named {
		return nil
	}
	all, err := p.objects.IngressClasses(ctx)
	if err != nil {
		return err
	}
	class, ok := newestDefault(all, func(c *networkingv1.IngressClass) bool {
		return c.Annotations[networkingv1.AnnotationIsDefaultIngressClass] == "true"
	})
	if ok {
		ingress.Spec.IngressClassName = &class.Name
	}
	return nil
}
