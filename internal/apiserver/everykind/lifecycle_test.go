package everykind_test

import (
	"fmt"
	"slices"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/dynamic"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/apitest"
	"github.com/celox/celox/internal/client"
)

// TestLifeOfEveryKind leads an object of each kind through its life with client-go, as a client that does not know the kind: created,
// got, listed in one and in all namespaces, patched, updated, its status too, watched, deleted alone and with others.
func TestLifeOfEveryKind(t *testing.T) {
	w := newWorld(t)
	admin := &user.DefaultInfo{Name: "admin", Groups: []string{user.SystemPrivilegedGroup}}
	config := client.InProcess(w.handler, admin, "life")
	clients, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range apitest.Samples(t, w.catalogue) {
		k := s.Kind
		t.Run(k.GroupKind().String(), func(t *testing.T) {
			gv := k.GroupVersion(k.HubVersion())
			all := clients.Resource(gv.WithResource(k.Resource))
			l := &life{t: t, kind: k, all: all, here: all}
			if k.Namespaced {
				l.here = all.Namespace(namespace)
			}
			first := &unstructured.Unstructured{Object: read(t, s.Document)}
			first.SetAPIVersion(gv.String())
			l.lead(first)
		})
	}
}

// life is one kind's part of the test.
type life struct {
	t    *testing.T
	kind *api.Kind
	all  dynamic.ResourceInterface
	here dynamic.ResourceInterface
	w    watch.Interface
}

const lifeSelector = "life=e2e"

func (l *life) fine(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

// event waits for the next event, which has to be of this type.
func (l *life) event(want watch.EventType) *unstructured.Unstructured {
	l.t.Helper()
	select {
	case e, ok := <-l.w.ResultChan():
		if !ok || e.Type != want {
			l.t.Fatalf("event %s %v, want %s", e.Type, e.Object, want)
		}
		return e.Object.(*unstructured.Unstructured)
	case <-l.t.Context().Done():
		l.t.Fatalf("no event, want %s", want)
		return nil
	}
}

func (l *life) lead(o *unstructured.Unstructured) {
	t, ctx := l.t, l.t.Context()
	list, err := l.all.List(ctx, metav1.ListOptions{LabelSelector: lifeSelector})
	l.fine(err)
	l.w, err = l.all.Watch(ctx, metav1.ListOptions{LabelSelector: lifeSelector, ResourceVersion: list.GetResourceVersion()})
	l.fine(err)
	defer l.w.Stop()

	// one that nobody asks about, where a second name is possible
	stranger := o.DeepCopy()
	stranger.SetName("stranger")
	_, err = l.here.Create(ctx, stranger, metav1.CreateOptions{})
	hasStranger := err == nil
	if err != nil && !apierrors.IsInvalid(err) {
		t.Fatal(err)
	}

	label(o, "life", "e2e")
	made, err := l.here.Create(ctx, o, metav1.CreateOptions{})
	l.fine(err)
	name := made.GetName()
	if made.GetUID() == "" || made.GetResourceVersion() == "" || made.GetCreationTimestamp() == (metav1.Time{}) {
		t.Errorf("made %v", made)
	}
	if e := l.event(watch.Added); e.GetResourceVersion() != made.GetResourceVersion() {
		t.Errorf("watched %v, made %v", e, made)
	}
	got, err := l.here.Get(ctx, name, metav1.GetOptions{})
	l.fine(err)
	if got.GetUID() != made.GetUID() {
		t.Errorf("got %v", got)
	}
	for _, where := range []dynamic.ResourceInterface{l.all, l.here} {
		for _, o := range []metav1.ListOptions{{LabelSelector: lifeSelector}, {LabelSelector: lifeSelector, FieldSelector: "metadata.name=" + name}} {
			list, err := where.List(ctx, o)
			l.fine(err)
			if len(list.Items) != 1 || list.Items[0].GetName() != name {
				t.Errorf("%+v lists %d", o, len(list.Items))
			}
		}
	}

	patched, err := l.here.Patch(ctx, name, types.MergePatchType, []byte(`{"metadata":{"labels":{"patched":"true"}}}`), metav1.PatchOptions{})
	l.fine(err)
	if e := l.event(watch.Modified); patched.GetLabels()["patched"] != "true" || e.GetLabels()["patched"] != "true" || e.GetUID() != made.GetUID() {
		t.Errorf("patched %v, watched %v", patched, e)
	}
	patched.SetAnnotations(map[string]string{"updated": "true"})
	updated, err := l.here.Update(ctx, patched, metav1.UpdateOptions{})
	l.fine(err)
	if e := l.event(watch.Modified); updated.GetAnnotations()["updated"] != "true" || e.GetAnnotations()["updated"] != "true" {
		t.Errorf("updated %v, watched %v", updated, e)
	}
	if _, err := l.here.Update(ctx, got, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("an update of what has changed since: %v", err)
	}
	if hasStatus(l.kind) {
		l.status(name)
	}

	// alone
	l.fine(l.here.Delete(ctx, name, metav1.DeleteOptions{GracePeriodSeconds: new(int64)}))
	l.gone(name)
	if !slices.Contains(l.kind.ResourceVerbs(), "deletecollection") {
		return
	}
	// with others
	again, err := l.here.Create(ctx, o, metav1.CreateOptions{})
	l.fine(err)
	if again.GetUID() == made.GetUID() {
		t.Error("the second has the identity of the first")
	}
	l.event(watch.Added)
	l.fine(l.here.DeleteCollection(ctx, metav1.DeleteOptions{GracePeriodSeconds: new(int64)}, metav1.ListOptions{LabelSelector: lifeSelector}))
	l.gone(name)
	if hasStranger {
		_, err := l.here.Get(ctx, "stranger", metav1.GetOptions{})
		l.fine(err)
	}
}

// status: read, patched and updated at its own door, without a word about the rest.
func (l *life) status(name string) {
	t, ctx := l.t, l.t.Context()
	spec := func(o *unstructured.Unstructured) string { return fmt.Sprint(o.Object["spec"]) }
	before, err := l.here.Get(ctx, name, metav1.GetOptions{}, "status")
	l.fine(err)
	patched, err := l.here.Patch(ctx, name, types.MergePatchType, []byte(`{"metadata":{"annotations":{"patchedstatus":"true"}},"spec":null,"status":{}}`), metav1.PatchOptions{}, "status")
	l.fine(err)
	if spec(patched) != spec(before) {
		t.Errorf("a patch of the status changed the spec: %v", patched)
	}
	// Some kinds keep their metadata from those who may write their status; for the others a note may go along.
	keeps := map[string]bool{
		"Pod": true, "Service": true, "Namespace": true, "Node": true, "ReplicationController": true, "ResourceQuota": true, "PersistentVolume": true, "PersistentVolumeClaim": true,
		"Deployment": true, "ReplicaSet": true, "StatefulSet": true, "DaemonSet": true, "Job": true, "CronJob": true, "PodDisruptionBudget": true, "Ingress": true, "CertificateSigningRequest": true,
	}
	if keeps[l.kind.Kind] && patched.GetAnnotations()["patchedstatus"] != "true" {
		t.Errorf("patched %v", patched)
	}
	updated, err := l.here.UpdateStatus(ctx, patched, metav1.UpdateOptions{})
	l.fine(err)
	if updated.GetResourceVersion() != patched.GetResourceVersion() {
		t.Errorf("an update without a change wrote %v", updated)
	}
	if patched.GetResourceVersion() != before.GetResourceVersion() {
		l.event(watch.Modified)
	}
}

// gone waits until it is, whatever its finalizers would wait for.
func (l *life) gone(name string) {
	l.t.Helper()
	ctx := l.t.Context()
	last, err := l.here.Get(ctx, name, metav1.GetOptions{})
	for err == nil {
		if l.kind.Kind == "Namespace" {
			last.Object["spec"] = map[string]any{"finalizers": []any{}}
			_, err = l.here.Update(ctx, last, metav1.UpdateOptions{}, "finalize")
		} else {
			_, err = l.here.Patch(ctx, name, types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
		}
		if err == nil {
			last, err = l.here.Get(ctx, name, metav1.GetOptions{})
		}
	}
	if !apierrors.IsNotFound(err) {
		l.t.Fatal(err)
	}
	for {
		select {
		case e, ok := <-l.w.ResultChan():
			if !ok {
				l.t.Fatal("the watch ended")
			}
			if e.Type == watch.Deleted {
				return
			}
		case <-ctx.Done():
			l.t.Fatal("no event of the deletion")
		}
	}
}

func label(o *unstructured.Unstructured, key, value string) {
	labels := o.GetLabels()
	if labels == nil {
		labels = map[string]string{}
	}
	labels[key] = value
	o.SetLabels(labels)
}
