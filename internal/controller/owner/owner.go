package owner

import (
	"encoding/json"
	"fmt"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

// Object is what can be owned.
type Object interface {
	comparable
	metav1.Object
}

// Claim is what a controller should do with its candidates.
type Claim[T Object] struct {
	// Owned are the controller's already and match.
	Owned []T
	// Adopt are orphans that match; Release are owned ones that no longer match.
	Adopt, Release []T
}

// Decide sorts candidates for the controller ctl with the given selector. A controller that is being deleted adopts
// nothing, nor is anything adopted or released that is itself being deleted.
func Decide[T Object](ctl metav1.Object, selector labels.Selector, candidates []T) Claim[T] {
	var c Claim[T]
	for _, obj := range candidates {
		ref := metav1.GetControllerOfNoCopy(obj)
		if ref != nil && ref.UID != ctl.GetUID() {
			continue
		}
		matches := selector.Matches(labels.Set(obj.GetLabels()))
		switch {
		case ref != nil && matches:
			c.Owned = append(c.Owned, obj)
		case ref != nil:
			if ctl.GetDeletionTimestamp() == nil {
				c.Release = append(c.Release, obj)
			}
		case matches && ctl.GetDeletionTimestamp() == nil && obj.GetDeletionTimestamp() == nil:
			c.Adopt = append(c.Adopt, obj)
		}
	}
	return c
}

// AdoptPatch is a merge patch of the candidate's owner references that makes ref its controller, and gives it a finalizer unless that is
// empty. It names the candidate's uid, so that a namesake which took its place is not adopted.
func AdoptPatch(candidate metav1.Object, ref metav1.OwnerReference, finalizer string) ([]byte, error) {
	var finalizers []string
	if finalizer != "" && !slices.Contains(candidate.GetFinalizers(), finalizer) {
		finalizers = append(slices.Clone(candidate.GetFinalizers()), finalizer)
	}
	return patch(candidate.GetUID(), append(slices.Clone(candidate.GetOwnerReferences()), ref), finalizers)
}

// ReleasePatch is a merge patch that removes the references to owner.
func ReleasePatch(candidate metav1.Object, owner types.UID) ([]byte, error) {
	kept := []metav1.OwnerReference{}
	for _, r := range candidate.GetOwnerReferences() {
		if r.UID != owner {
			kept = append(kept, r)
		}
	}
	return patch(candidate.GetUID(), kept, nil)
}

func patch(uid types.UID, refs []metav1.OwnerReference, finalizers []string) ([]byte, error) {
	type meta struct {
		UID             types.UID               `json:"uid"`
		OwnerReferences []metav1.OwnerReference `json:"ownerReferences"`
		Finalizers      []string                `json:"finalizers,omitempty"`
	}
	data, err := json.Marshal(struct {
		Metadata meta `json:"metadata"`
	}{meta{uid, refs, finalizers}})
	if err != nil {
		return nil, fmt.Errorf("encode owner references: %w", err)
	}
	return data, nil
}
