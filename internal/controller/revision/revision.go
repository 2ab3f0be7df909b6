package revision

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/client-go/kubernetes"
	appslisters "k8s.io/client-go/listers/apps/v1"
	"k8s.io/utils/dump"

	"github.com/celox/celox/internal/controller/owner"
)

// maxPrefix is how much of the owner's name goes into a revision's, so that the hash still fits.
const maxPrefix = 223

// TemplateHash names a template; upstream's function, so that an opened upstream cluster keeps its objects.
func TemplateHash(template *corev1.PodTemplateSpec, collisions *int32) string {
	h := fnv.New32a()
	_, _ = fmt.Fprintf(h, "%v", dump.ForHash(*template)) // a hash never fails
	if collisions != nil {
		var b [8]byte
		binary.LittleEndian.PutUint32(b[:], uint32(*collisions))
		_, _ = h.Write(b[:])
	}
	return rand.SafeEncodeString(fmt.Sprint(h.Sum32()))
}

// DataHash names the data of a revision, as upstream does for StatefulSets.
func DataHash(data []byte, collisions *int32) string {
	h := fnv.New32()
	_, _ = h.Write(data)
	if collisions != nil {
		_, _ = h.Write([]byte(strconv.Itoa(int(*collisions))))
	}
	return rand.SafeEncodeString(fmt.Sprint(h.Sum32()))
}

// Data is what a revision holds: a strategic merge patch that puts a template in its owner's place.
func Data(template *corev1.PodTemplateSpec) ([]byte, error) {
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(template)
	if err != nil {
		return nil, fmt.Errorf("encode template: %w", err)
	}
	content["$patch"] = "replace"
	data, err := json.Marshal(map[string]any{"spec": map[string]any{"template": content}})
	if err != nil {
		return nil, fmt.Errorf("encode template: %w", err)
	}
	return data, nil
}

// Template reads the template that a revision holds.
func Template(r *appsv1.ControllerRevision) (*corev1.PodTemplateSpec, error) {
	var data struct {
		Spec struct {
			Template corev1.PodTemplateSpec `json:"template"`
		} `json:"spec"`
	}
	if err := json.Unmarshal(r.Data.Raw, &data); err != nil {
		return nil, fmt.Errorf("read revision %s: %w", r.Name, err)
	}
	return &data.Spec.Template, nil
}

// Owner has a history.
type Owner interface {
	metav1.Object
	runtime.Object
}

// History keeps the revisions of one kind of owner.
type History struct {
	Client kubernetes.Interface
	Lister appslisters.ControllerRevisionLister
	Kind   schema.GroupVersionKind
}

// List returns the revisions of o, the oldest first, after adopting orphans that match the selector and releasing those that do not. An owner that is being
// deleted adopts none, but those that it lost by that are still its history: else it would write a new one.
func (h *History) List(ctx context.Context, o Owner, selector labels.Selector) ([]*appsv1.ControllerRevision, error) {
	all, err := h.Lister.ControllerRevisions(o.GetNamespace()).List(labels.Everything())
	if err != nil {
		return nil, fmt.Errorf("list revisions: %w", err)
	}
	claim := owner.Decide(o, selector, all)
	own := slices.Clone(claim.Owned)
	if o.GetDeletionTimestamp() != nil {
		for _, r := range all {
			if metav1.GetControllerOfNoCopy(r) == nil && selector.Matches(labels.Set(r.Labels)) {
				own = append(own, r)
			}
		}
	}
	api := h.Client.AppsV1().ControllerRevisions(o.GetNamespace())
	for _, r := range claim.Adopt {
		patch, err := owner.AdoptPatch(r, *metav1.NewControllerRef(o, h.Kind), "")
		if err != nil {
			return nil, err
		}
		adopted, err := api.Patch(ctx, r.Name, types.MergePatchType, patch, metav1.PatchOptions{})
		if apierrors.IsNotFound(err) {
			continue
		} else if err != nil {
			return nil, fmt.Errorf("adopt revision %s: %w", r.Name, err)
		}
		own = append(own, adopted)
	}
	for _, r := range claim.Release {
		patch, err := owner.ReleasePatch(r, o.GetUID())
		if err != nil {
			return nil, err
		}
		if _, err = api.Patch(ctx, r.Name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil && !apierrors.IsNotFound(err) && !apierrors.IsInvalid(err) {
			return nil, fmt.Errorf("release revision %s: %w", r.Name, err)
		}
	}
	slices.SortStableFunc(own, func(a, b *appsv1.ControllerRevision) int {
		return cmp.Or(cmp.Compare(a.Revision, b.Revision), a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
	return own, nil
}

// Request describes the revision that Ensure is to find or make.
type Request struct {
	Owner    Owner
	Template *corev1.PodTemplateSpec
	// Hash names the content, changed by the number of collisions so far; HashLabel carries it.
	Hash       func(data []byte, collisions *int32) string
	HashLabel  string
	Collisions *int32
	// FirstHash lets the label keep the hash of the first try when its name was taken, as StatefulSets' do.
	FirstHash bool
}

// Ensure returns the revision of the template, and all revisions with it the newest, oldest first. One that said the same before becomes the
// newest again. Collisions is the count to keep in the owner's status; it grows when a name was taken by other content.
func (h *History) Ensure(ctx context.Context, all []*appsv1.ControllerRevision, q Request) (current *appsv1.ControllerRevision, after []*appsv1.ControllerRevision, collisions *int32, err error) {
	data, err := Data(q.Template)
	if err != nil {
		return nil, nil, nil, err
	}
	next := int64(1)
	if len(all) > 0 {
		next = all[len(all)-1].Revision + 1
	}
	api := h.Client.AppsV1().ControllerRevisions(q.Owner.GetNamespace())
	for i := len(all) - 1; i >= 0; i-- {
		r := all[i]
		if !sameData(r.Data.Raw, data) {
			continue
		}
		// Numbers may be there twice: who doesn't see a revision yet gives its number to another.
		if i == len(all)-1 && (i == 0 || all[i-1].Revision < r.Revision) {
			return r, all, q.Collisions, nil
		}
		r = r.DeepCopy()
		r.Revision = next
		if r, err = api.Update(ctx, r, metav1.UpdateOptions{}); err != nil {
			return nil, nil, nil, fmt.Errorf("renew revision %s: %w", all[i].Name, err)
		}
		return r, append(slices.Delete(slices.Clone(all), i, i+1), r), q.Collisions, nil
	}
	collisions = q.Collisions
	label := ""
	for {
		hash := q.Hash(data, collisions)
		if label == "" || !q.FirstHash {
			label = hash
		}
		prefix := q.Owner.GetName()
		if len(prefix) > maxPrefix {
			prefix = prefix[:maxPrefix]
		}
		r := &appsv1.ControllerRevision{
			ObjectMeta: metav1.ObjectMeta{
				Name: prefix + "-" + hash, Namespace: q.Owner.GetNamespace(), Labels: map[string]string{}, Annotations: map[string]string{},
				OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(q.Owner, h.Kind)},
			},
			Data: runtime.RawExtension{Raw: data}, Revision: next,
		}
		maps.Copy(r.Labels, q.Template.Labels)
		r.Labels[q.HashLabel] = label
		maps.Copy(r.Annotations, q.Owner.GetAnnotations()) // all of them, as upstream: that of kubectl apply says what was asked for then
		made, err := api.Create(ctx, r, metav1.CreateOptions{})
		if !apierrors.IsAlreadyExists(err) {
			if err != nil {
				return nil, nil, nil, fmt.Errorf("create revision %s: %w", r.Name, err)
			}
			return made, append(slices.Clone(all), made), collisions, nil
		}
		there, err := api.Get(ctx, r.Name, metav1.GetOptions{})
		if err != nil {
			return nil, nil, nil, fmt.Errorf("get revision %s: %w", r.Name, err)
		}
		if sameData(there.Data.Raw, data) {
			// Made before and not seen yet, or that of a namesake which is about to go: the same template keeps its name.
			return there, append(slices.Clone(all), there), collisions, nil
		}
		n := int32(1)
		if collisions != nil {
			n = *collisions + 1
		}
		collisions = &n
	}
}

// Says says that a revision holds what data does.
func Says(r *appsv1.ControllerRevision, data []byte) bool { return sameData(r.Data.Raw, data) }

// sameData compares by meaning: what another version of this program, or upstream, wrote may order keys otherwise.
func sameData(a, b []byte) bool {
	if bytes.Equal(a, b) {
		return true
	}
	var x, y struct {
		Spec struct {
			Template corev1.PodTemplateSpec `json:"template"`
		} `json:"spec"`
	}
	return json.Unmarshal(a, &x) == nil && json.Unmarshal(b, &y) == nil && equality.Semantic.DeepEqual(x, y)
}

// Truncate deletes the oldest revisions that nothing lives on, beyond limit.
func (h *History) Truncate(ctx context.Context, all []*appsv1.ControllerRevision, live map[string]bool, limit int) error {
	dead := slices.DeleteFunc(slices.Clone(all), func(r *appsv1.ControllerRevision) bool { return live[r.Name] })
	var errs []error
	for _, r := range dead[:max(0, len(dead)-limit)] {
		if err := h.Client.AppsV1().ControllerRevisions(r.Namespace).Delete(ctx, r.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("delete revision %s: %w", r.Name, err))
		}
	}
	return errors.Join(errs...)
}
