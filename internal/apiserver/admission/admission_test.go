package admission

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"maps"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/celox/celox/internal/api/quota"
	"github.com/celox/celox/internal/apiserver/authz"
	"github.com/celox/celox/internal/apiserver/lookup/lookuptest"
	"github.com/celox/celox/internal/apiserver/request"
	"github.com/celox/celox/internal/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func meta(namespace, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: namespace, Name: name}
}

// fixture is a chain over a store with the namespace "a" and its default account.
type fixture struct {
	*lookuptest.Store
	chain    Chain
	warnings []string
}

func setup(t testing.TB) *fixture {
	t.Helper()
	f := &fixture{Store: lookuptest.New(t)}
	f.Put(&corev1.Namespace{ObjectMeta: meta("", "a")}, &corev1.ServiceAccount{ObjectMeta: meta("a", "default")})
	r, rb, cr, crb, err := f.Objects.RBACReaders()
	if err != nil {
		t.Fatal(err)
	}
	rbac := authz.NewRBAC(authz.Readers{Roles: r, RoleBindings: rb, ClusterRoles: cr, ClusterRoleBindings: crb})
	z := authz.New(nil, rbac, nil)
	quotas, _ := f.Collection(schema.GroupResource{Resource: "resourcequotas"})
	if f.chain, err = Default(Deps{Objects: f.Objects, Authorizer: z, Guard: authz.NewGuard(z, rbac), Charger: quotas}); err != nil {
		t.Fatal(err)
	}
	return f
}

var resources = map[reflect.Type]schema.GroupVersionResource{
	reflect.TypeFor[*certificatesv1.ClusterTrustBundle]():        {Group: "certificates.k8s.io", Version: "v1", Resource: "clustertrustbundles"},
	reflect.TypeFor[*corev1.Pod]():                               {Version: "v1", Resource: "pods"},
	reflect.TypeFor[*corev1.Node]():                              {Version: "v1", Resource: "nodes"},
	reflect.TypeFor[*corev1.Namespace]():                         {Version: "v1", Resource: "namespaces"},
	reflect.TypeFor[*corev1.ConfigMap]():                         {Version: "v1", Resource: "configmaps"},
	reflect.TypeFor[*corev1.Secret]():                            {Version: "v1", Resource: "secrets"},
	reflect.TypeFor[*corev1.Service]():                           {Version: "v1", Resource: "services"},
	reflect.TypeFor[*corev1.PersistentVolume]():                  {Version: "v1", Resource: "persistentvolumes"},
	reflect.TypeFor[*corev1.PersistentVolumeClaim]():             {Version: "v1", Resource: "persistentvolumeclaims"},
	reflect.TypeFor[*authenticationv1.TokenRequest]():            {Version: "v1", Resource: "serviceaccounts"},
	reflect.TypeFor[*appsv1.Deployment]():                        {Group: "apps", Version: "v1", Resource: "deployments"},
	reflect.TypeFor[*rbacv1.Role]():                              {Group: rbacv1.GroupName, Version: "v1", Resource: "roles"},
	reflect.TypeFor[*schedulingv1.PriorityClass]():               {Group: schedulingv1.GroupName, Version: "v1", Resource: "priorityclasses"},
	reflect.TypeFor[*networkingv1.Ingress]():                     {Group: networkingv1.GroupName, Version: "v1", Resource: "ingresses"},
	reflect.TypeFor[*coordinationv1.Lease]():                     {Group: coordinationv1.GroupName, Version: "v1", Resource: "leases"},
	reflect.TypeFor[*certificatesv1.CertificateSigningRequest](): {Group: certificatesv1.GroupName, Version: "v1", Resource: "certificatesigningrequests"},
	reflect.TypeFor[*certificatesv1.PodCertificateRequest]():     {Group: certificatesv1.GroupName, Version: "v1", Resource: "podcertificaterequests"},
	reflect.TypeFor[*storagev1.CSINode]():                        {Group: storagev1.GroupName, Version: "v1", Resource: "csinodes"},
}

type option func(*Attributes)

func sub(name string) option   { return func(a *Attributes) { a.Subresource = name } }
func by(u user.Info) option    { return func(a *Attributes) { a.User = u } }
func dryRun(a *Attributes)     { a.DryRun = true }
func named(name string) option { return func(a *Attributes) { a.Name = name } }
func inside(ns string) option  { return func(a *Attributes) { a.Namespace = ns } }
func node(name string) user.Info {
	return &user.DefaultInfo{Name: "system:node:" + name, Groups: []string{user.NodesGroup}}
}

// write runs the chain as the server does and returns the error's text.
func (f *fixture) write(t testing.TB, op Operation, obj, old runtime.Object, options ...option) string {
	t.Helper()
	return text(f.admit(t.Context(), op, obj, old, options...))
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func (f *fixture) admit(ctx context.Context, op Operation, obj, old runtime.Object, options ...option) error {
	some := obj
	if some == nil {
		some = old
	}
	m := some.(metav1.Object)
	a := &Attributes{
		Operation: op, Resource: resources[reflect.TypeOf(some)], Namespace: m.GetNamespace(), Name: m.GetName(), Object: obj, OldObject: old,
		User: &user.DefaultInfo{Name: "root", Groups: []string{user.SystemPrivilegedGroup}},
		Warn: func(w string) { f.warnings = append(f.warnings, w) },
	}
	if op == Delete {
		a.Object = nil
	}
	if _, ok := some.(*corev1.Namespace); ok {
		a.Namespace = a.Name
	}
	for _, o := range options {
		o(a)
	}
	if err := f.chain.Admit(ctx, a); err != nil {
		return err
	}
	return f.chain.Validate(ctx, a)
}

func (f *fixture) create(t testing.TB, obj runtime.Object, options ...option) string {
	t.Helper()
	return f.write(t, Create, obj, nil, options...)
}

func pod(name string, change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: meta("a", name), Spec: corev1.PodSpec{
		AutomountServiceAccountToken: new(false), Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
	for _, c := range change {
		c(p)
	}
	return p
}

func amounts(pairs ...string) corev1.ResourceList {
	l := corev1.ResourceList{}
	for i := 0; i < len(pairs); i += 2 {
		l[corev1.ResourceName(pairs[i])] = resource.MustParse(pairs[i+1])
	}
	return l
}

func needs(requests, limits corev1.ResourceList) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Containers[0].Resources = corev1.ResourceRequirements{Requests: requests, Limits: limits}
	}
}

func expect(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s:\n got %q\nwant %q", what, got, want)
	}
}

func TestNamespaceLifecycle(t *testing.T) {
	f := setup(t)
	f.Put(&corev1.Namespace{ObjectMeta: meta("", "ending"), Status: corev1.NamespaceStatus{Phase: corev1.NamespaceTerminating}})
	in := func(ns string) *corev1.ConfigMap { return &corev1.ConfigMap{ObjectMeta: meta(ns, "b")} }
	expect(t, "good", f.create(t, in("a")), "")
	expect(t, "missing", f.create(t, in("nope")), `namespaces "nope" not found`)
	expect(t, "update in a missing one", f.write(t, Update, in("nope"), in("nope")), `namespaces "nope" not found`)
	expect(t, "delete in a missing one", f.write(t, Delete, nil, in("nope")), "")
	err := f.admit(t.Context(), Create, in("ending"), nil)
	expect(t, "ending", text(err), `configmaps "b" is forbidden: unable to create new content in namespace ending because it is being terminated`)
	if !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		t.Errorf("no cause: %v", err)
	}
	expect(t, "update in an ending one", f.write(t, Update, in("ending"), in("ending")), "")
	for _, ns := range []string{"default", "kube-system", "kube-public"} {
		expect(t, ns, f.write(t, Delete, nil, &corev1.Namespace{ObjectMeta: meta("", ns)}), fmt.Sprintf(`namespaces %q is forbidden: this namespace may not be deleted`, ns))
	}
	expect(t, "another namespace", f.write(t, Delete, nil, &corev1.Namespace{ObjectMeta: meta("", "a")}), "")
}

func TestLimitRanger(t *testing.T) {
	f := setup(t)
	f.Put(&corev1.LimitRange{ObjectMeta: meta("a", "l"), Spec: corev1.LimitRangeSpec{Limits: []corev1.LimitRangeItem{
		{Type: corev1.LimitTypeContainer, Default: amounts("cpu", "500m", "memory", "128Mi"), DefaultRequest: amounts("cpu", "100m", "memory", "128Mi"),
			Max: amounts("cpu", "1", "memory", "1Gi"), Min: amounts("cpu", "50m"), MaxLimitRequestRatio: amounts("cpu", "10")},
		{Type: corev1.LimitTypePod, Max: amounts("memory", "1500Mi")},
		{Type: corev1.LimitTypePersistentVolumeClaim, Max: amounts("storage", "10Gi"), Min: amounts("storage", "1Gi")},
	}}})
	a := pod("a")
	expect(t, "defaults", f.create(t, a), "")
	expect(t, "annotation", a.Annotations[limitRangerAnnotation], "LimitRanger plugin set: cpu, memory request for container c; cpu, memory limit for container c")
	if !reflect.DeepEqual(a.Spec.Containers[0].Resources, corev1.ResourceRequirements{Requests: amounts("cpu", "100m", "memory", "128Mi"), Limits: amounts("cpu", "500m", "memory", "128Mi")}) {
		t.Errorf("got %v", a.Spec.Containers[0].Resources)
	}
	expect(t, "below and ratio", f.create(t, pod("b", needs(amounts("cpu", "10m"), nil))),
		`pods "b" is forbidden: [minimum cpu usage per Container is 50m, but request is 10m, cpu max limit to request ratio per Container is 10, but provided ratio is 50.000000]`)
	expect(t, "above", f.create(t, pod("c", needs(amounts("cpu", "2"), amounts("cpu", "2")))),
		`pods "c" is forbidden: maximum cpu usage per Container is 1, but limit is 2`)
	expect(t, "ratio", f.create(t, pod("d", needs(amounts("cpu", "50m"), amounts("cpu", "1")))),
		`pods "d" is forbidden: cpu max limit to request ratio per Container is 10, but provided ratio is 20.000000`)
	big := corev1.ResourceRequirements{Requests: amounts("memory", "1Gi"), Limits: amounts("memory", "1Gi")}
	expect(t, "whole pod", f.create(t, pod("e", func(p *corev1.Pod) {
		p.Spec.Containers = []corev1.Container{{Name: "a", Resources: *big.DeepCopy()}, {Name: "b", Resources: *big.DeepCopy()}}
	})), `pods "e" is forbidden: maximum memory usage per Pod is 1500Mi, but limit is 2Gi`)
	e := pod("f", func(p *corev1.Pod) {
		p.Spec.Containers = []corev1.Container{
			{Name: "a", Resources: corev1.ResourceRequirements{Requests: amounts("memory", "64Mi")}},
			{Name: "b", Resources: corev1.ResourceRequirements{Requests: amounts("cpu", "200m"), Limits: amounts("cpu", "200m")}}}
		p.Spec.InitContainers = []corev1.Container{{Name: "i"}}
	})
	expect(t, "several", f.create(t, e), "")
	expect(t, "annotation", e.Annotations[limitRangerAnnotation],
		"LimitRanger plugin set: cpu request for container a; cpu, memory limit for container a; memory request for container b; memory limit for container b; cpu, memory request for init container i; cpu, memory limit for init container i")
	claim := func(size string) *corev1.PersistentVolumeClaim {
		return &corev1.PersistentVolumeClaim{ObjectMeta: meta("a", "c"), Spec: corev1.PersistentVolumeClaimSpec{Resources: corev1.VolumeResourceRequirements{Requests: amounts("storage", size)}}}
	}
	expect(t, "large claim", f.create(t, claim("20Gi")), `persistentvolumeclaims "c" is forbidden: maximum storage usage per PersistentVolumeClaim is 10Gi, but request is 20Gi`)
	expect(t, "small claim", f.create(t, claim("1Mi")), `persistentvolumeclaims "c" is forbidden: minimum storage usage per PersistentVolumeClaim is 1Gi, but request is 1Mi`)
	expect(t, "claim", f.create(t, claim("2Gi")), "")
}

func TestServiceAccount(t *testing.T) {
	f := setup(t)
	f.Put(&corev1.ServiceAccount{ObjectMeta: meta("a", "sa"), AutomountServiceAccountToken: new(false), ImagePullSecrets: []corev1.LocalObjectReference{{Name: "reg"}}})
	auto := func(p *corev1.Pod) { p.Spec.AutomountServiceAccountToken = nil }
	runAs := func(name string) func(*corev1.Pod) { return func(p *corev1.Pod) { p.Spec.ServiceAccountName = name } }

	p := pod("a", auto, func(p *corev1.Pod) { p.Spec.InitContainers = []corev1.Container{{Name: "i"}} })
	expect(t, "default", f.create(t, p), "")
	if p.Spec.ServiceAccountName != "default" || p.Spec.DeprecatedServiceAccount != "default" || len(p.Spec.Volumes) != 1 || !strings.HasPrefix(p.Spec.Volumes[0].Name, "kube-api-access-") {
		t.Errorf("got %+v", p.Spec)
	}
	for _, c := range []corev1.Container{p.Spec.Containers[0], p.Spec.InitContainers[0]} {
		if want := (corev1.VolumeMount{Name: p.Spec.Volumes[0].Name, ReadOnly: true, MountPath: tokenMountPath}); !reflect.DeepEqual(c.VolumeMounts, []corev1.VolumeMount{want}) {
			t.Errorf("%s: mounts %v", c.Name, c.VolumeMounts)
		}
	}
	if s := p.Spec.Volumes[0].Projected; *s.DefaultMode != 0o644 || *s.Sources[0].ServiceAccountToken.ExpirationSeconds != 3607 || s.Sources[1].ConfigMap.Name != "kube-root-ca.crt" || s.Sources[2].DownwardAPI.Items[0].Path != "namespace" {
		t.Errorf("got %+v", s)
	}
	expect(t, "unknown", f.create(t, pod("b", runAs("nope"))), `pods "b" is forbidden: error looking up service account a/nope: serviceaccount "nope" not found`)
	p = pod("c", auto, runAs("sa"))
	expect(t, "account says no", f.create(t, p), "")
	if len(p.Spec.Volumes) != 0 || len(p.Spec.ImagePullSecrets) != 1 || p.Spec.ImagePullSecrets[0].Name != "reg" {
		t.Errorf("got %+v", p.Spec)
	}
	p = pod("d", func(p *corev1.Pod) {
		p.Spec.DeprecatedServiceAccount = "sa"
		p.Spec.AutomountServiceAccountToken = new(true)
		p.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "own"}}
	})
	expect(t, "pod says yes", f.create(t, p), "")
	if len(p.Spec.Volumes) != 1 || p.Spec.ImagePullSecrets[0].Name != "own" || p.Spec.ServiceAccountName != "sa" {
		t.Errorf("got %+v", p.Spec)
	}
	p = pod("e", auto, func(p *corev1.Pod) {
		p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "t", MountPath: tokenMountPath}}
	})
	expect(t, "the place is taken", f.create(t, p), "")
	if len(p.Spec.Volumes) != 0 || len(p.Spec.Containers[0].VolumeMounts) != 1 {
		t.Errorf("got %+v", p.Spec)
	}
	mirror := func(p *corev1.Pod) { p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"} }
	expect(t, "mirror with account", f.create(t, pod("f", mirror, runAs("sa"))), `pods "f" is forbidden: a mirror pod may not reference service accounts`)
	p = pod("g", mirror)
	expect(t, "mirror", f.create(t, p), "")
	if p.Spec.ServiceAccountName != "" {
		t.Errorf("got %+v", p.Spec)
	}

	f.Put(&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "strict", Annotations: map[string]string{enforceMountable: "true"}},
		Secrets: []corev1.ObjectReference{{Name: "ok"}}})
	secretVolume := func(name string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: name}}}}
		}
	}
	expect(t, "volume", f.create(t, pod("a", runAs("strict"), secretVolume("other"))), `pods "a" is forbidden: volume with secret.secretName="other" is not allowed because service account strict does not reference that secret`)
	expect(t, "listed", f.create(t, pod("a", runAs("strict"), secretVolume("ok"))), "")
	expect(t, "env", f.create(t, pod("b", runAs("strict"), func(p *corev1.Pod) {
		p.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "A", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "other"}}}}}
	})), `pods "b" is forbidden: container c with envVar A referencing secret.secretName="other" is not allowed because service account strict does not reference that secret`)
	expect(t, "pull secret", f.create(t, pod("c", runAs("strict"), func(p *corev1.Pod) { p.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "other"}} })),
		`pods "c" is forbidden: imagePullSecrets[0].name="other" is not allowed because service account strict does not reference that imagePullSecret`)
}

// The first pods of a namespace may come before the controller has made its default account.
func TestFirstPodWaitsForAccount(t *testing.T) {
	f := setup(t)
	f.Put(&corev1.Namespace{ObjectMeta: meta("", "fresh")})
	done := make(chan struct{})
	go func() {
		defer close(done)
		time.Sleep(20 * time.Millisecond)
		f.Put(&corev1.ServiceAccount{ObjectMeta: meta("fresh", "default")})
	}()
	p := pod("p")
	p.Namespace = "fresh"
	expect(t, "first pod", f.create(t, p), "")
	<-done
}

func TestPriority(t *testing.T) {
	f := setup(t)
	f.Put(&schedulingv1.PriorityClass{ObjectMeta: meta("", "system-node-critical"), Value: 2000001000, PreemptionPolicy: new(corev1.PreemptLowerPriority)})
	class := func(name string) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Spec.PriorityClassName = name }
	}
	value := func(n int32) func(*corev1.Pod) { return func(p *corev1.Pod) { p.Spec.Priority = &n } }
	preempt := func(s corev1.PreemptionPolicy) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Spec.PreemptionPolicy = &s }
	}
	p := pod("a", class("system-node-critical"))
	expect(t, "class", f.create(t, p), "")
	if *p.Spec.Priority != 2000001000 || *p.Spec.PreemptionPolicy != corev1.PreemptLowerPriority {
		t.Errorf("got %+v", p.Spec)
	}
	expect(t, "unknown", f.create(t, pod("b", class("nope"))), `pods "b" is forbidden: no PriorityClass with name nope was found`)
	expect(t, "a value", f.create(t, pod("c", value(5))), `pods "c" is forbidden: the integer value of priority (5) must not be provided in pod spec; priority admission controller computed 0 from the given PriorityClass name`)
	expect(t, "the right value", f.create(t, pod("c", value(0))), "")
	expect(t, "preemption", f.create(t, pod("d", preempt("Never"))), `pods "d" is forbidden: the string value of PreemptionPolicy (Never) must not be provided in pod spec; priority admission controller computed PreemptLowerPriority from the given PriorityClass name`)
	updated := pod("a")
	expect(t, "update", f.write(t, Update, updated, p), "")
	if updated.Spec.Priority == nil || *updated.Spec.Priority != 2000001000 {
		t.Errorf("got %+v", updated.Spec)
	}
	standard := &schedulingv1.PriorityClass{ObjectMeta: meta("", "standard"), Value: 7, GlobalDefault: true, PreemptionPolicy: new(corev1.PreemptNever)}
	expect(t, "first default", f.create(t, standard), "")
	f.Put(standard)
	p = pod("e")
	expect(t, "default class", f.create(t, p), "")
	if *p.Spec.Priority != 7 || p.Spec.PriorityClassName != "standard" || *p.Spec.PreemptionPolicy != corev1.PreemptNever {
		t.Errorf("got %+v", p.Spec)
	}
	expect(t, "second default", f.create(t, &schedulingv1.PriorityClass{ObjectMeta: meta("", "x"), GlobalDefault: true}), `priorityclasses.scheduling.k8s.io "x" is forbidden: PriorityClass standard is already marked as default. Only one default can exist`)
	expect(t, "the same default", f.write(t, Update, standard, standard), "")
	expect(t, "delete", f.write(t, Delete, nil, standard), "")
	expect(t, "delete a system class", f.write(t, Delete, nil, &schedulingv1.PriorityClass{ObjectMeta: meta("", systemNodeCritical)}),
		`priorityclasses.scheduling.k8s.io "system-node-critical" is forbidden: this is a system priority class and cannot be deleted`)
}

func TestTolerationsAndTaints(t *testing.T) {
	f := setup(t)
	for _, c := range []struct {
		given []corev1.Toleration
		want  int
	}{
		{nil, 2},
		{[]corev1.Toleration{{Operator: corev1.TolerationOpExists}}, 1},
		{[]corev1.Toleration{{Key: "k", Value: "v", Effect: corev1.TaintEffectNoSchedule}, {Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: new(int64(5))}}, 3},
	} {
		p := pod("a", func(p *corev1.Pod) { p.Spec.Tolerations = c.given })
		expect(t, "pod", f.create(t, p), "")
		if len(p.Spec.Tolerations) != c.want {
			t.Errorf("%v: got %v", c.given, p.Spec.Tolerations)
		}
	}
	n := &corev1.Node{ObjectMeta: meta("", "n"), Spec: corev1.NodeSpec{Taints: []corev1.Taint{{Key: "a", Effect: corev1.TaintEffectNoSchedule}}}}
	for range 2 {
		expect(t, "node", f.create(t, n), "")
		if len(n.Spec.Taints) != 2 || n.Spec.Taints[1].Key != corev1.TaintNodeNotReady {
			t.Errorf("got %v", n.Spec.Taints)
		}
	}
}

func TestRuntimeClass(t *testing.T) {
	f := setup(t)
	f.Put(&nodev1.RuntimeClass{ObjectMeta: meta("", "vm"), Overhead: &nodev1.Overhead{PodFixed: amounts("cpu", "1")},
		Scheduling: &nodev1.Scheduling{NodeSelector: map[string]string{"vm": "yes"}, Tolerations: []corev1.Toleration{{Key: "vm", Operator: corev1.TolerationOpExists}}}})
	class := func(name string) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Spec.RuntimeClassName = &name }
	}
	overhead := func(p *corev1.Pod) { p.Spec.Overhead = amounts("cpu", "2") }
	p := pod("a", class("vm"))
	expect(t, "class", f.create(t, p), "")
	if p.Spec.Overhead.Cpu().String() != "1" || p.Spec.NodeSelector["vm"] != "yes" || p.Spec.Tolerations[2].Key != "vm" {
		t.Errorf("got %+v", p.Spec)
	}
	expect(t, "unknown", f.create(t, pod("a", class("g-nope"))), `pods "a" is forbidden: pod rejected: RuntimeClass "g-nope" not found`)
	expect(t, "nonsense", f.create(t, pod("b", class("A b"))), `pods "b" is forbidden: pod rejected: RuntimeClass "A b" not found`)
	expect(t, "no class", f.create(t, pod("c", overhead)), `pods "c" is forbidden: pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead`)
	empty := func(p *corev1.Pod) { p.Spec.Overhead = corev1.ResourceList{} }
	const uncalled = "is forbidden: pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"
	expect(t, "empty, no class", f.create(t, pod("c", empty)), `pods "c" `+uncalled)
	f.Put(&nodev1.RuntimeClass{ObjectMeta: meta("", "light")}, &nodev1.RuntimeClass{ObjectMeta: meta("", "empty"), Overhead: &nodev1.Overhead{}})
	expect(t, "empty, class without", f.create(t, pod("c", class("light"), empty)), `pods "c" `+uncalled)
	expect(t, "empty, class with empty", f.create(t, pod("c", class("empty"), empty)), "")
	p = pod("c", class("vm"), empty)
	expect(t, "empty, class with", f.create(t, p), "")
	if p.Spec.Overhead.Cpu().String() != "1" {
		t.Errorf("got %v", p.Spec.Overhead)
	}
	expect(t, "class with empty", f.create(t, pod("c", class("empty"), overhead)), `pods "c" is forbidden: pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead`)
	expect(t, "another overhead", f.create(t, pod("d", class("vm"), overhead)), `pods "d" is forbidden: pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead`)
	expect(t, "conflict", f.create(t, pod("e", class("vm"), func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"vm": "no"} })),
		`pods "e" is forbidden: conflict: runtimeClass.scheduling.nodeSelector[vm] = yes; pod.spec.nodeSelector[vm] = no`)
}

func TestStorageAndIngress(t *testing.T) {
	f := setup(t)
	class := func(name string, age time.Duration, isDefault bool) *storagev1.StorageClass {
		c := &storagev1.StorageClass{ObjectMeta: meta("", name), AllowVolumeExpansion: new(name == "b")}
		c.CreationTimestamp = metav1.NewTime(time.Unix(1_800_000_000, 0).Add(-age))
		if isDefault {
			c.Annotations = map[string]string{defaultStorageClass: "true"}
		}
		return c
	}
	claim := func(size string) *corev1.PersistentVolumeClaim {
		return &corev1.PersistentVolumeClaim{ObjectMeta: meta("a", "c"), Spec: corev1.PersistentVolumeClaimSpec{Resources: corev1.VolumeResourceRequirements{Requests: amounts("storage", size)}}}
	}
	c := claim("1Gi")
	expect(t, "no class", f.create(t, c), "")
	if c.Spec.StorageClassName != nil || len(c.Finalizers) != 1 || c.Finalizers[0] != "kubernetes.io/pvc-protection" {
		t.Errorf("got %+v", c)
	}
	f.Put(class("a", time.Hour, true), class("b", time.Minute, true), class("c", time.Minute, true), class("d", 0, false))
	c = claim("1Gi")
	expect(t, "default class", f.create(t, c), "")
	if c.Spec.StorageClassName == nil || *c.Spec.StorageClassName != "b" {
		t.Errorf("got %v", c.Spec.StorageClassName)
	}
	larger := claim("2Gi")
	larger.Spec.StorageClassName = new("b")
	expect(t, "unbound", f.write(t, Update, larger, c), `persistentvolumeclaims "c" is forbidden: Only bound persistent volume claims can be expanded`)
	c.Status.Phase = corev1.ClaimBound
	expect(t, "bound", f.write(t, Update, larger, c), "")
	larger.Spec.StorageClassName = new("a")
	expect(t, "rigid", f.write(t, Update, larger, c), `persistentvolumeclaims "c" is forbidden: only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize`)
	pv := &corev1.PersistentVolume{ObjectMeta: meta("", "v")}
	expect(t, "volume", f.create(t, pv), "")
	if len(pv.Finalizers) != 1 {
		t.Errorf("got %v", pv.Finalizers)
	}
	f.Put(&networkingv1.IngressClass{ObjectMeta: metav1.ObjectMeta{Name: "x", Annotations: map[string]string{networkingv1.AnnotationIsDefaultIngressClass: "true"}}})
	ing := &networkingv1.Ingress{ObjectMeta: meta("a", "i")}
	old := &networkingv1.Ingress{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "j", Annotations: map[string]string{"kubernetes.io/ingress.class": "y"}}}
	expect(t, "ingress", f.create(t, ing)+f.create(t, old), "")
	if ing.Spec.IngressClassName == nil || *ing.Spec.IngressClassName != "x" || old.Spec.IngressClassName != nil {
		t.Errorf("got %v, %v", ing.Spec, old.Spec)
	}
}

func quotaOf(name string, hard, used corev1.ResourceList) *corev1.ResourceQuota {
	return &corev1.ResourceQuota{ObjectMeta: meta("a", name), Spec: corev1.ResourceQuotaSpec{Hard: hard}, Status: corev1.ResourceQuotaStatus{Hard: hard, Used: used}}
}

func (f *fixture) used(t testing.TB, name string) string {
	t.Helper()
	qs, err := f.Objects.ResourceQuotas(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range qs {
		if q.Name == name {
			return show(q.Status.Used, sortedNames(q.Status.Used))
		}
	}
	return "none"
}

func TestQuotaOfPods(t *testing.T) {
	f := setup(t)
	unready := quotaOf("q", amounts("pods", "0"), nil)
	unready.Status = corev1.ResourceQuotaStatus{}
	f.Put(unready)
	expect(t, "not yet counted", f.create(t, pod("early")), "")
	f.Put(quotaOf("q", amounts("pods", "1", "requests.cpu", "1", "limits.memory", "1Gi"), amounts("pods", "0", "requests.cpu", "0", "limits.memory", "0")))
	expect(t, "says nothing", f.create(t, pod("a")), `pods "a" is forbidden: failed quota: q: must specify limits.memory for: c; requests.cpu for: c`)
	expect(t, "too much", f.create(t, pod("b", needs(amounts("cpu", "2", "memory", "1Gi"), amounts("memory", "2Gi")))),
		`pods "b" is forbidden: exceeded quota: q, requested: limits.memory=2Gi,requests.cpu=2, used: limits.memory=0,requests.cpu=0, limited: limits.memory=1Gi,requests.cpu=1`)
	small := func(name string) *corev1.Pod {
		return pod(name, needs(amounts("cpu", "100m"), amounts("memory", "100Mi")))
	}
	expect(t, "dry run", f.create(t, small("c"), dryRun), "")
	expect(t, "used after a dry run", f.used(t, "q"), "limits.memory=0,pods=0,requests.cpu=0")
	expect(t, "fits", f.create(t, small("c")), "")
	expect(t, "used", f.used(t, "q"), "limits.memory=100Mi,pods=1,requests.cpu=100m")
	expect(t, "one more", f.create(t, small("d")), `pods "d" is forbidden: exceeded quota: q, requested: pods=1, used: pods=1, limited: pods=1`)
}

// TestQuotaOfDeadlines: a pod that gets a deadline is charged at once to the quota of pods that end.
func TestQuotaOfDeadlines(t *testing.T) {
	f := setup(t)
	q := quotaOf("q", amounts("pods", "1"), amounts("pods", "0"))
	q.Spec.Scopes = []corev1.ResourceQuotaScope{corev1.ResourceQuotaScopeTerminating}
	f.Put(q)
	ends := func(name string) *corev1.Pod {
		p := pod(name)
		p.Spec.ActiveDeadlineSeconds = new(int64(3600))
		return p
	}
	expect(t, "goes on", f.create(t, pod("a")), "")
	expect(t, "not about it", f.used(t, "q"), "pods=0")
	expect(t, "changed", f.write(t, Update, pod("a"), pod("a")), "")
	expect(t, "still not", f.used(t, "q"), "pods=0")
	expect(t, "gets a deadline", f.write(t, Update, ends("a"), pod("a")), "")
	expect(t, "charged", f.used(t, "q"), "pods=1")
	expect(t, "changed again", f.write(t, Update, ends("a"), ends("a")), "")
	expect(t, "charged once", f.used(t, "q"), "pods=1")
	expect(t, "another", f.create(t, ends("b")), `pods "b" is forbidden: exceeded quota: q, requested: pods=1, used: pods=1, limited: pods=1`)
}

func TestQuotaOfObjects(t *testing.T) {
	f := setup(t)
	f.Put(quotaOf("q", amounts("configmaps", "1", "count/secrets", "0", "services.loadbalancers", "0", "services.nodeports", "2"), amounts("configmaps", "0", "count/secrets", "0", "services.loadbalancers", "0", "services.nodeports", "0")))
	cm := func(name string) *corev1.ConfigMap { return &corev1.ConfigMap{ObjectMeta: meta("a", name)} }
	svc := func(kind corev1.ServiceType, ports int) *corev1.Service {
		return &corev1.Service{ObjectMeta: meta("a", "s"), Spec: corev1.ServiceSpec{Type: kind, Ports: make([]corev1.ServicePort, ports)}}
	}
	expect(t, "first", f.create(t, cm("a")), "")
	expect(t, "second", f.create(t, cm("b")), `configmaps "b" is forbidden: exceeded quota: q, requested: configmaps=1, used: configmaps=1, limited: configmaps=1`)
	expect(t, "update", f.write(t, Update, cm("a"), cm("a")), "")
	expect(t, "secret", f.create(t, &corev1.Secret{ObjectMeta: meta("a", "a")}), `secrets "a" is forbidden: exceeded quota: q, requested: count/secrets=1, used: count/secrets=0, limited: count/secrets=0`)
	expect(t, "plain service", f.create(t, svc(corev1.ServiceTypeClusterIP, 1)), "")
	expect(t, "load balancer", f.create(t, svc(corev1.ServiceTypeLoadBalancer, 1)), `services "s" is forbidden: exceeded quota: q, requested: services.loadbalancers=1, used: services.loadbalancers=0, limited: services.loadbalancers=0`)
	expect(t, "becomes a node port", f.write(t, Update, svc(corev1.ServiceTypeNodePort, 2), svc(corev1.ServiceTypeClusterIP, 2)), "")
	expect(t, "one port more", f.write(t, Update, svc(corev1.ServiceTypeNodePort, 3), svc(corev1.ServiceTypeNodePort, 2)), `services "s" is forbidden: exceeded quota: q, requested: services.nodeports=1, used: services.nodeports=2, limited: services.nodeports=2`)
	expect(t, "no node port any more", f.write(t, Update, svc(corev1.ServiceTypeClusterIP, 2), svc(corev1.ServiceTypeNodePort, 2)), "")
	// What is given back, the quota controller finds out.
	expect(t, "used", f.used(t, "q"), "configmaps=1,count/secrets=0,services.loadbalancers=0,services.nodeports=2")
	f.Put(quotaOf("q", amounts("configmaps", "1", "secrets", "5"), amounts("configmaps", "0")))
	expect(t, "not counted yet", f.create(t, &corev1.Secret{ObjectMeta: meta("a", "b")}), `secrets "b" is forbidden: status unknown for quota: q, resources: secrets`)
}

// Many writers at once never use more than there is, and what one quota lets in and another refuses is not charged.
func TestQuotaIsExact(t *testing.T) {
	f := setup(t)
	f.Put(quotaOf("a-large", amounts("configmaps", "100"), amounts("configmaps", "0")), quotaOf("small", amounts("configmaps", "7"), amounts("configmaps", "0")))
	var mu sync.Mutex
	var wg sync.WaitGroup
	let := 0
	for i := range 40 {
		wg.Go(func() {
			if f.admit(t.Context(), Create, &corev1.ConfigMap{ObjectMeta: meta("a", fmt.Sprint(i))}, nil) == nil {
				mu.Lock()
				defer mu.Unlock()
				let++
			}
		})
	}
	wg.Wait()
	if let != 7 {
		t.Errorf("%d were let in", let)
	}
	expect(t, "small", f.used(t, "small"), "configmaps=7")
	expect(t, "large", f.used(t, "a-large"), "configmaps=7")
}

func TestQuotaScopes(t *testing.T) {
	q := func(scopes []corev1.ResourceQuotaScope, r ...corev1.ScopedResourceSelectorRequirement) *corev1.ResourceQuota {
		out := &corev1.ResourceQuota{Spec: corev1.ResourceQuotaSpec{Scopes: scopes}}
		if len(r) > 0 {
			out.Spec.ScopeSelector = &corev1.ScopeSelector{MatchExpressions: r}
		}
		return out
	}
	high := pod("p", func(p *corev1.Pod) { p.Spec.PriorityClassName = "high" })
	job := pod("p", func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = new(int64(5)) })
	burst := pod("p", needs(amounts("cpu", "1"), nil))
	in := corev1.ScopedResourceSelectorRequirement{ScopeName: corev1.ResourceQuotaScopePriorityClass, Operator: corev1.ScopeSelectorOpIn, Values: []string{"high"}}
	notIn := in
	notIn.Operator = corev1.ScopeSelectorOpNotIn
	for i, c := range []struct {
		q    *corev1.ResourceQuota
		obj  runtime.Object
		want bool
	}{
		{q(nil), &corev1.ConfigMap{}, true},
		{q(nil), high, true},
		{q([]corev1.ResourceQuotaScope{corev1.ResourceQuotaScopeBestEffort}), &corev1.ConfigMap{}, false},
		{q([]corev1.ResourceQuotaScope{corev1.ResourceQuotaScopeBestEffort}), high, true},
		{q([]corev1.ResourceQuotaScope{corev1.ResourceQuotaScopeBestEffort}), burst, false},
		{q([]corev1.ResourceQuotaScope{corev1.ResourceQuotaScopeNotBestEffort, corev1.ResourceQuotaScopeNotTerminating}), burst, true},
		{q([]corev1.ResourceQuotaScope{corev1.ResourceQuotaScopeTerminating}), job, true},
		{q([]corev1.ResourceQuotaScope{corev1.ResourceQuotaScopeNotTerminating}), job, false},
		{q(nil, in), high, true},
		{q(nil, in), job, false},
		{q(nil, notIn), job, true},
		{q([]corev1.ResourceQuotaScope{corev1.ResourceQuotaScopePriorityClass}), job, false},
		{q([]corev1.ResourceQuotaScope{corev1.ResourceQuotaScopeCrossNamespacePodAffinity}), job, false},
	} {
		if got := quota.Matches(c.q, c.obj); got != c.want {
			t.Errorf("%d: got %v", i, got)
		}
	}
}

func TestPodSecurity(t *testing.T) {
	f := setup(t)
	restricted := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "a", Labels: map[string]string{"pod-security.kubernetes.io/enforce": "baseline", "pod-security.kubernetes.io/warn": "restricted"}}}
	privileged := func(p *corev1.Pod) {
		p.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{Privileged: new(true)}
	}
	expect(t, "without labels", f.create(t, pod("x", privileged)), "")
	f.Put(pod("x", privileged), pod("y", privileged), pod("z"))
	expect(t, "stricter", f.write(t, Update, restricted, &corev1.Namespace{ObjectMeta: meta("", "a")}), "")
	expect(t, "warnings", strings.Join(f.warnings, "|"), `existing pods in namespace "a" violate the new PodSecurity enforce level "baseline:latest"|x (and 1 other pod): privileged`)
	f.Put(restricted)
	f.warnings = nil
	expect(t, "privileged", f.create(t, pod("x", privileged)), `pods "x" is forbidden: violates PodSecurity "baseline:latest": privileged (container "c" must not set securityContext.privileged=true)`)
	expect(t, "plain", f.create(t, pod("x")), "")
	if len(f.warnings) != 1 || !strings.HasPrefix(f.warnings[0], `would violate PodSecurity "restricted:latest": allowPrivilegeEscalation != false (container "c" must set securityContext.allowPrivilegeEscalation=false), `) {
		t.Errorf("warnings: %q", f.warnings)
	}
	f.warnings = nil
	expect(t, "deployment", f.create(t, &appsv1.Deployment{ObjectMeta: meta("a", "d"), Spec: appsv1.DeploymentSpec{Template: corev1.PodTemplateSpec{Spec: pod("x", privileged).Spec}}}), "")
	if len(f.warnings) != 1 {
		t.Errorf("warnings: %q", f.warnings)
	}
	labelled := pod("x", privileged)
	labelled.Labels = map[string]string{"a": "b"}
	expect(t, "label of an old pod", f.write(t, Update, labelled, pod("x", privileged)), "")
	bad := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "n", Labels: map[string]string{"pod-security.kubernetes.io/enforce": "x"}}}
	if got := f.create(t, bad); !strings.Contains(got, "must be one of privileged, baseline, restricted") {
		t.Errorf("got %q", got)
	}
}

func TestNodeRestriction(t *testing.T) {
	f := setup(t)
	bound := pod("p", func(p *corev1.Pod) {
		p.Spec.NodeName = "n1"
		p.Spec.Volumes = []corev1.Volume{
			{Name: "t", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
				{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token"}}, {ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "other", Audience: "vault"}}}}}},
			{Name: "d", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "c"}}},
		}
	})
	f.Put(&corev1.PersistentVolumeClaim{ObjectMeta: meta("a", "c"), Spec: corev1.PersistentVolumeClaimSpec{VolumeName: "v"}},
		&corev1.PersistentVolume{ObjectMeta: meta("", "v"), Spec: corev1.PersistentVolumeSpec{PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: "disks"}}}},
		&storagev1.CSIDriver{ObjectMeta: meta("", "disks"), Spec: storagev1.CSIDriverSpec{TokenRequests: []storagev1.TokenRequest{{Audience: "disks.example.com"}}}})
	other := pod("q", func(p *corev1.Pod) { p.Spec.NodeName = "n2" })
	self := &corev1.Node{ObjectMeta: meta("", "n1")}
	f.Put(bound, other, self)
	n1 := by(node("n1"))
	mirror := func(change ...func(*corev1.Pod)) *corev1.Pod {
		p := pod("m", change...)
		p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"}
		p.Spec.NodeName = "n1"
		return p
	}
	tainted, labelled, restricted := self.DeepCopy(), self.DeepCopy(), self.DeepCopy()
	tainted.Spec.Taints = []corev1.Taint{{Key: "x", Effect: corev1.TaintEffectNoSchedule}}
	labelled.Labels = map[string]string{corev1.LabelHostname: "n1", "example.com/x": "y", "kubelet.kubernetes.io/z": "1"}
	restricted.Labels = map[string]string{"node-restriction.kubernetes.io/x": "1", "kubernetes.io/foo": "1"}
	token := func(change func(*authenticationv1.BoundObjectReference)) *authenticationv1.TokenRequest {
		r := &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: "p", UID: bound.UID}
		change(r)
		return &authenticationv1.TokenRequest{ObjectMeta: meta("a", "default"), Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: r}}
	}
	audiences := func(names ...string) *authenticationv1.TokenRequest {
		r := token(func(*authenticationv1.BoundObjectReference) {})
		r.Spec.Audiences = names
		return r
	}
	status := bound.DeepCopy()
	status.Labels = map[string]string{"a": "b"}
	claims, extended := bound.DeepCopy(), bound.DeepCopy()
	claims.Status.ResourceClaimStatuses = []corev1.PodResourceClaimStatus{{Name: "c"}}
	extended.Status.ExtendedResourceClaimStatus = &corev1.PodExtendedResourceClaimStatus{ResourceClaimName: "c"}
	for _, c := range []struct {
		name     string
		op       Operation
		obj, old runtime.Object
		options  []option
		want     string
	}{
		{"plain pod", Create, pod("x"), nil, nil, `pods "x" is forbidden: pod does not have "kubernetes.io/config.mirror" annotation, node "n1" can only create mirror pods`},
		{"mirror pod", Create, mirror(), nil, nil, ""},
		{"mirror pod elsewhere", Create, mirror(), nil, []option{by(node("n2"))}, `pods "m" is forbidden: node "n2" can only create pods with spec.nodeName set to itself`},
		{"delete own pod", Delete, nil, bound, nil, ""},
		{"delete another's pod", Delete, nil, other, nil, `pods "q" is forbidden: node "n1" can only delete pods with spec.nodeName set to itself`},
		{"update", Update, bound, bound, nil, `pods "p" is forbidden: unexpected operation "UPDATE", node "n1" can only create and delete mirror pods`},
		{"own status", Update, bound, bound, []option{sub("status")}, ""},
		{"another's status", Update, other, other, []option{sub("status")}, `pods "q" is forbidden: node "n1" can only update pod status for pods with spec.nodeName set to itself`},
		{"labels by status", Update, status, bound, []option{sub("status")}, `pods "p" is forbidden: node "n1" cannot update labels through pod status`},
		{"claims by status", Update, claims, bound, []option{sub("status")}, `pods "p" is forbidden: node "n1" cannot update resource claim statuses`},
		{"extended resources by status", Update, extended, bound, []option{sub("status")}, `pods "p" is forbidden: node "n1" cannot update extended resource claim status`},
		{"exec", Connect, bound, nil, []option{sub("exec")}, `pods "p" is forbidden: unexpected pod subresource "exec", only 'status' and 'eviction' are allowed`},
		{"register", Create, self.DeepCopy(), nil, nil, ""},
		{"register another", Create, &corev1.Node{ObjectMeta: meta("", "n2")}, nil, nil, `nodes "n2" is forbidden: node "n1" is not allowed to modify node "n2"`},
		{"labels", Update, labelled, self, nil, ""},
		{"restricted labels", Update, restricted, self, nil, `nodes "n1" is forbidden: is not allowed to modify labels: kubernetes.io/foo, node-restriction.kubernetes.io/x`},
		{"taints", Update, tainted, self, nil, `nodes "n1" is forbidden: node "n1" is not allowed to modify taints`},
		{"token", Create, token(func(*authenticationv1.BoundObjectReference) {}), nil, []option{sub("token")}, ""},
		{"token for a volume", Create, audiences("vault"), nil, []option{sub("token")}, ""},
		{"token for a driver", Create, audiences("disks.example.com"), nil, []option{sub("token")}, ""},
		{"token for somebody else", Create, audiences("bank"), nil, []option{sub("token")}, `serviceaccounts "default" is forbidden: audience "bank" not found in pod spec volume`},
		{"token for two", Create, audiences("vault", ""), nil, []option{sub("token")}, `serviceaccounts "default" is forbidden: node may only request 0 or 1 audiences`},
		{"token of an account", Create, &authenticationv1.TokenRequest{ObjectMeta: meta("a", "default")}, nil, []option{sub("token")}, `serviceaccounts "default" is forbidden: node requested token not bound to a pod`},
		{"token without uid", Create, token(func(r *authenticationv1.BoundObjectReference) { r.UID = "" }), nil, []option{sub("token")}, `serviceaccounts "default" is forbidden: node requested token with a pod binding without a uid`},
		{"token of another's pod", Create, token(func(r *authenticationv1.BoundObjectReference) { r.Name, r.UID = "q", other.UID }), nil, []option{sub("token")}, `serviceaccounts "default" is forbidden: node requested token bound to a pod scheduled on a different node`},
		{"lease", Update, &coordinationv1.Lease{ObjectMeta: meta("kube-node-lease", "n1")}, nil, []option{inside("kube-node-lease")}, `namespaces "kube-node-lease" not found`},
		{"another's lease", Update, &coordinationv1.Lease{ObjectMeta: meta("a", "n1")}, nil, nil, `leases.coordination.k8s.io "n1" is forbidden: can only access leases in the "kube-node-lease" system namespace`},
		{"csi node", Create, &storagev1.CSINode{ObjectMeta: meta("", "n2")}, nil, nil, `csinodes.storage.k8s.io "n2" is forbidden: can only access CSINode with the same name as the requesting node`},
		{"nameless", Create, self.DeepCopy(), nil, []option{by(node(""))}, `nodes "n1" is forbidden: could not determine node from user "system:node:"`},
		{"somebody else", Update, tainted, self, []option{by(&user.DefaultInfo{Name: "root"}), named("n1")}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			expect(t, c.name, f.write(t, c.op, c.obj, c.old, append([]option{n1}, c.options...)...), c.want)
		})
	}
}

func TestNodeAsksForPodCertificates(t *testing.T) {
	f := setup(t)
	certified := func(p *corev1.Pod) {
		p.Spec.NodeName, p.Spec.ServiceAccountName = "n1", "default"
		p.Spec.Volumes = []corev1.Volume{{Name: "c", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
			{PodCertificate: &corev1.PodCertificateProjection{SignerName: "example.com/s"}}}}}}}
	}
	bound := pod("p", certified)
	mirror := pod("m", certified, func(p *corev1.Pod) { p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"} })
	away := pod("q", certified, func(p *corev1.Pod) { p.Spec.NodeName = "n2" })
	self := &corev1.Node{ObjectMeta: meta("", "n1")}
	f.Put(bound, mirror, away, self)
	account, err := f.Objects.ServiceAccount(t.Context(), "a", "default")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		change func(*certificatesv1.PodCertificateRequest)
		want   string // a part of it; "": it is let through
	}{
		{"right", func(*certificatesv1.PodCertificateRequest) {}, ""},
		{"another node", func(r *certificatesv1.PodCertificateRequest) { r.Spec.NodeName = "n2" }, `is forbidden: PodCertificateRequest.Spec.NodeName="n2", which is not the requesting node "n1"`},
		{"an older node", func(r *certificatesv1.PodCertificateRequest) { r.Spec.NodeUID = "x" }, `PodCertificateRequest for pod "a/p" names node UID "x", inconsistent with the running node`},
		{"no pod", func(r *certificatesv1.PodCertificateRequest) { r.Spec.PodName = "nix" }, `while retrieving pod "a/nix" named in the PodCertificateRequest: pods "nix" not found`},
		{"an older pod", func(r *certificatesv1.PodCertificateRequest) { r.Spec.PodUID = "x" }, `PodCertificateRequest for pod "a/p" contains pod UID ("x") which differs from running pod`},
		{"a pod elsewhere", func(r *certificatesv1.PodCertificateRequest) { r.Spec.PodName, r.Spec.PodUID = "q", away.UID }, `is forbidden: pod "a/q" is not running on node "n1" named in the PodCertificateRequest`},
		{"a mirror", func(r *certificatesv1.PodCertificateRequest) { r.Spec.PodName, r.Spec.PodUID = "m", mirror.UID }, `is forbidden: pod "a/m" is a mirror pod`},
		{"another account", func(r *certificatesv1.PodCertificateRequest) { r.Spec.ServiceAccountName = "x" }, `is forbidden: PodCertificateRequest for pod "a/p" contains serviceAccountName ("x") that differs from running pod ("default")`},
		{"an older account", func(r *certificatesv1.PodCertificateRequest) { r.Spec.ServiceAccountUID = "x" }, `PodCertificateRequest for pod "a/p" names service account UID "x", which differs from the running service account`},
		{"another signer", func(r *certificatesv1.PodCertificateRequest) { r.Spec.SignerName = "example.com/t" }, `is forbidden: pod "a/p" does not mount a podCertificate projected volume for signer "example.com/t"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := &certificatesv1.PodCertificateRequest{ObjectMeta: meta("a", "r"), Spec: certificatesv1.PodCertificateRequestSpec{
				SignerName: "example.com/s", NodeName: "n1", NodeUID: self.UID, PodName: "p", PodUID: bound.UID, ServiceAccountName: "default", ServiceAccountUID: account.UID,
			}}
			c.change(r)
			got := f.write(t, Create, r, nil, by(node("n1")))
			if c.want == "" && got != "" || !strings.Contains(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
	r := &certificatesv1.PodCertificateRequest{ObjectMeta: meta("a", "r")}
	expect(t, "update", f.write(t, Update, r, r, by(node("n1"))), `podcertificaterequests.certificates.k8s.io "r" is forbidden: unexpected operation UPDATE`)
}

func TestCertificatesAndEscalation(t *testing.T) {
	f := setup(t)
	f.Put(&rbacv1.ClusterRole{ObjectMeta: meta("", "signers"), Rules: []rbacv1.PolicyRule{
		{Verbs: []string{"approve"}, APIGroups: []string{certificatesv1.GroupName}, Resources: []string{"signers"}, ResourceNames: []string{"example.com/*"}}}},
		&rbacv1.ClusterRoleBinding{ObjectMeta: meta("", "signers"), RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "signers"},
			Subjects: []rbacv1.Subject{{Kind: "User", Name: "appr"}}})
	appr := by(&user.DefaultInfo{Name: "appr"})
	csr := func(signer, org string) *certificatesv1.CertificateSigningRequest {
		return &certificatesv1.CertificateSigningRequest{ObjectMeta: meta("", "c"), Spec: certificatesv1.CertificateSigningRequestSpec{SignerName: signer, Request: signingRequest(t, org)}}
	}
	expect(t, "masters", f.create(t, csr(certificatesv1.KubeAPIServerClientSignerName, user.SystemPrivilegedGroup)),
		`certificatesigningrequests.certificates.k8s.io "c" is forbidden: use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed`)
	mine := csr(certificatesv1.KubeAPIServerClientSignerName, "devs")
	mine.Spec.Username = "somebody else"
	expect(t, "somebody", f.create(t, mine, by(&user.DefaultInfo{Name: "appr", Groups: []string{"g"}, Extra: map[string][]string{"k": {"v"}}})), "")
	if mine.Spec.Username != "appr" || mine.Spec.Groups[0] != "g" || mine.Spec.Extra["k"][0] != "v" {
		t.Errorf("got %+v", mine.Spec)
	}
	old := csr("example.com/signer", "devs")
	expect(t, "approve", f.write(t, Update, old, old, appr, sub("approval")), "")
	foreign := csr("other.com/signer", "devs")
	expect(t, "approve another's", f.write(t, Update, foreign, foreign, appr, sub("approval")),
		`certificatesigningrequests.certificates.k8s.io "c" is forbidden: user not permitted to approve requests with signerName "other.com/signer"`)
	signed := old.DeepCopy()
	signed.Status.Certificate = []byte("x")
	expect(t, "sign", f.write(t, Update, signed, old, appr, sub("status")),
		`certificatesigningrequests.certificates.k8s.io "c" is forbidden: user not permitted to sign requests with signerName "example.com/signer"`)
	expect(t, "status", f.write(t, Update, old, old, appr, sub("status")), "")

	role := &rbacv1.Role{ObjectMeta: meta("a", "r"), Rules: []rbacv1.PolicyRule{{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"pods"}}}}
	if got := f.create(t, role, appr); !strings.Contains(got, "attempting to grant RBAC permissions not currently held") {
		t.Errorf("got %q", got)
	}
	expect(t, "root grants", f.create(t, role), "")
}

func signingRequest(t *testing.T, org string) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "x", Organization: []string{org}}}, key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

var (
	_ request.Authorizer = (*authz.Authorizer)(nil)
	_ Charger            = (*store.Collection)(nil)
)

func BenchmarkChainPod(b *testing.B) {
	f := setup(b)
	ctx := b.Context()
	b.ReportAllocs()
	for b.Loop() {
		if err := f.admit(ctx, Create, pod("p"), nil); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkChainConfigMap(b *testing.B) {
	f := setup(b)
	ctx := b.Context()
	cm := &corev1.ConfigMap{ObjectMeta: meta("a", "c")}
	b.ReportAllocs()
	for b.Loop() {
		if err := f.admit(ctx, Update, cm, cm); err != nil {
			b.Fatal(err)
		}
	}
}

func TestTrustBundles(t *testing.T) {
	f := setup(t)
	bundle := func(signer string) *certificatesv1.ClusterTrustBundle {
		return &certificatesv1.ClusterTrustBundle{ObjectMeta: meta("", "x"), Spec: certificatesv1.ClusterTrustBundleSpec{SignerName: signer}}
	}
	guest := by(&user.DefaultInfo{Name: "guest"})
	expect(t, "nobody's", f.write(t, Create, bundle(""), nil, guest), "")
	expect(t, "a signer's", f.write(t, Create, bundle("a.b/c"), nil, guest), `clustertrustbundles.certificates.k8s.io "x" is forbidden: user not permitted to attest for signerName "a.b/c"`)
	expect(t, "a change", f.write(t, Update, bundle("a.b/c"), bundle("a.b/c"), guest), `clustertrustbundles.certificates.k8s.io "x" is forbidden: user not permitted to attest for signerName "a.b/c"`)
}

func TestTopologyLabels(t *testing.T) {
	f := setup(t)
	f.Put(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: map[string]string{corev1.LabelTopologyZone: "z", corev1.LabelTopologyRegion: "r", "other": "o"}}})
	p := NewPodTopologyLabels(f.Objects)
	want := map[string]string{corev1.LabelTopologyZone: "z", corev1.LabelTopologyRegion: "r"}
	b := &corev1.Binding{ObjectMeta: meta("a", "p"), Target: corev1.ObjectReference{Name: "n1"}}
	a := &Attributes{Operation: Create, Resource: corev1.SchemeGroupVersion.WithResource("pods"), Subresource: "binding", Object: b}
	if err := p.Admit(t.Context(), a); err != nil || !maps.Equal(b.Labels, want) {
		t.Errorf("got %v, %v", b.Labels, err)
	}
	static := pod("s", func(p *corev1.Pod) { p.Spec.NodeName = "n1" })
	if err := p.Admit(t.Context(), &Attributes{Operation: Create, Resource: a.Resource, Object: static}); err != nil || !maps.Equal(static.Labels, want) {
		t.Errorf("got %v, %v", static.Labels, err)
	}
	lost := pod("l", func(p *corev1.Pod) { p.Spec.NodeName = "gone" })
	if err := p.Admit(t.Context(), &Attributes{Operation: Create, Resource: a.Resource, Object: lost}); err != nil || len(lost.Labels) != 0 {
		t.Errorf("got %v, %v", lost.Labels, err)
	}
}
