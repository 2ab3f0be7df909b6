package authz

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	authorizationv1 "k8s.io/api/authorization/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/user"
	"pgregory.net/rapid"

	"github.com/celox/celox/internal/apiserver/lookup/lookuptest"
	"github.com/celox/celox/internal/apiserver/request"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func setup(t testing.TB) (*lookuptest.Store, *Authorizer, *RBAC) {
	s := lookuptest.New(t)
	r, rb, cr, crb, err := s.Objects.RBACReaders()
	if err != nil {
		t.Fatal(err)
	}
	rbac := NewRBAC(Readers{Roles: r, RoleBindings: rb, ClusterRoles: cr, ClusterRoleBindings: crb})
	return s, New(NewNodes(s.Objects, []rbacv1.PolicyRule{rule("create", "", "nodes"), rule("get,list", "", "secrets")}), rbac, []string{"/healthz"}), rbac
}

func rule(verbs, group, resources string, names ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: strings.Split(verbs, ","), APIGroups: []string{group}, Resources: strings.Split(resources, ","), ResourceNames: names}
}

func role(namespace, name string, rules ...rbacv1.PolicyRule) *rbacv1.Role {
	return &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Rules: rules}
}

func clusterRole(name string, rules ...rbacv1.PolicyRule) *rbacv1.ClusterRole {
	return &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: rules}
}

func ref(kind, name string) rbacv1.RoleRef {
	return rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: kind, Name: name}
}

func bind(namespace, name string, r rbacv1.RoleRef, subjects ...rbacv1.Subject) *rbacv1.RoleBinding {
	return &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, RoleRef: r, Subjects: subjects}
}

func bindCluster(name, role string, subjects ...rbacv1.Subject) *rbacv1.ClusterRoleBinding {
	return &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: name}, RoleRef: ref("ClusterRole", role), Subjects: subjects}
}

func userSubject(name string) rbacv1.Subject  { return rbacv1.Subject{Kind: "User", Name: name} }
func groupSubject(name string) rbacv1.Subject { return rbacv1.Subject{Kind: "Group", Name: name} }

func who(name string, groups ...string) user.Info {
	return &user.DefaultInfo{Name: name, Groups: groups}
}

func ask(u user.Info, verb, namespace, resource, name string) request.Attributes {
	resource, sub, _ := strings.Cut(resource, "/")
	group := ""
	if r, g, ok := strings.Cut(resource, "."); ok {
		resource, group = r, g
	}
	return request.Attributes{User: u, Verb: verb, Namespace: namespace, Group: group, Resource: resource, Subresource: sub, Name: name, ResourceRequest: true}
}

func selecting(a request.Attributes, selector string) request.Attributes {
	a.FieldSelector = selector
	return a
}

// Secrets that every node serves with are for all nodes, to be read and no more.
func TestServedSecrets(t *testing.T) {
	s := lookuptest.New(t)
	n := NewNodes(s.Objects, nil).Serving(func(_ context.Context, namespace, name string) (bool, error) {
		return namespace == "a" && name == "cert", nil
	})
	node := who("system:node:n1", user.NodesGroup)
	for _, c := range []struct {
		a    request.Attributes
		want request.Decision
	}{
		{ask(node, "get", "a", "secrets", "cert"), request.Allow}, {ask(node, "list", "a", "secrets", "cert"), request.Allow}, {ask(node, "watch", "a", "secrets", "cert"), request.Allow},
		{ask(node, "list", "a", "secrets", ""), request.NoOpinion}, {ask(node, "update", "a", "secrets", "cert"), request.NoOpinion}, {ask(node, "get", "b", "secrets", "cert"), request.NoOpinion},
		{ask(node, "get", "a", "secrets", "other"), request.NoOpinion}, {ask(node, "get", "a", "configmaps", "cert"), request.NoOpinion}, {ask(who("erin"), "get", "a", "secrets", "cert"), request.NoOpinion},
	} {
		if d, _, err := n.Authorize(t.Context(), c.a); err != nil || d != c.want {
			t.Errorf("%s %s %s/%s %s: got %v, %v", c.a.User.GetName(), c.a.Verb, c.a.Namespace, c.a.Resource, c.a.Name, d, err)
		}
	}
}

func TestRBAC(t *testing.T) {
	s, z, _ := setup(t)
	s.Put(
		clusterRole("reader", rule("get,list", "", "pods,pods/log"), rbacv1.PolicyRule{Verbs: []string{"get"}, NonResourceURLs: []string{"/metrics", "/api/*"}}),
		clusterRole("scaler", rule("*", "apps", "*/scale")),
		role("a", "one-secret", rule("get,update", "", "secrets", "s")),
		bindCluster("readers", "reader", groupSubject("ops")),
		bindCluster("scalers", "scaler", rbacv1.Subject{Kind: "ServiceAccount", Namespace: "kube-system", Name: "hpa"}),
		bind("a", "secrets", ref("Role", "one-secret"), userSubject("erin")),
		bind("a", "pods", ref("ClusterRole", "reader"), userSubject("erin")),
		bind("a", "dangling", ref("Role", "nope"), userSubject("dora")),
	)
	path := func(u user.Info, verb, p string) request.Attributes {
		return request.Attributes{User: u, Verb: verb, Path: p}
	}
	ops, erin := who("olga", "ops"), who("erin")
	hpa := who("system:serviceaccount:kube-system:hpa")
	for _, c := range []struct {
		a      request.Attributes
		want   request.Decision
		reason string
	}{
		{ask(who("root", user.SystemPrivilegedGroup), "anything", "", "nothing", ""), request.Allow, ""},
		{ask(ops, "list", "a", "pods", ""), request.Allow, `RBAC: allowed by ClusterRoleBinding "readers" of ClusterRole "reader" to Group "ops"`},
		{ask(ops, "get", "a", "pods/log", "p"), request.Allow, `RBAC: allowed by ClusterRoleBinding "readers" of ClusterRole "reader" to Group "ops"`},
		{ask(ops, "get", "a", "pods/exec", "p"), request.NoOpinion, ""},
		{ask(ops, "delete", "a", "pods", "p"), request.NoOpinion, ""},
		{ask(ops, "get", "a", "pods.apps", "p"), request.NoOpinion, ""},
		{path(ops, "get", "/metrics"), request.Allow, `RBAC: allowed by ClusterRoleBinding "readers" of ClusterRole "reader" to Group "ops"`},
		{path(ops, "get", "/api/v1"), request.Allow, `RBAC: allowed by ClusterRoleBinding "readers" of ClusterRole "reader" to Group "ops"`},
		{path(ops, "get", "/api"), request.NoOpinion, ""},
		{path(ops, "get", "/metrics/x"), request.NoOpinion, ""},
		{path(erin, "get", "/metrics"), request.NoOpinion, ""}, // a role binding says nothing about paths
		{path(who("x"), "get", "/healthz"), request.Allow, ""},
		{path(who("x"), "*", "/healthz"), request.NoOpinion, ""},
		{path(who("x"), "post", "/healthz"), request.NoOpinion, ""},
		{ask(erin, "get", "a", "secrets", "s"), request.Allow, `RBAC: allowed by RoleBinding "secrets/a" of Role "one-secret" to User "erin"`},
		{ask(erin, "get", "a", "secrets", "t"), request.NoOpinion, ""},
		{ask(erin, "get", "b", "secrets", "s"), request.NoOpinion, ""},
		{ask(erin, "list", "a", "secrets", ""), request.NoOpinion, ""},
		{ask(erin, "list", "a", "pods", ""), request.Allow, `RBAC: allowed by RoleBinding "pods/a" of ClusterRole "reader" to User "erin"`},
		{ask(erin, "list", "", "pods", ""), request.NoOpinion, ""},
		{ask(hpa, "update", "a", "deployments.apps/scale", "d"), request.Allow, `RBAC: allowed by ClusterRoleBinding "scalers" of ClusterRole "scaler" to ServiceAccount "hpa/kube-system"`},
		{ask(hpa, "update", "a", "deployments.apps", "d"), request.NoOpinion, ""},
		{ask(who("dora"), "get", "a", "pods", "p"), request.NoOpinion, `rbac: RBAC: role.rbac.authorization.k8s.io "nope" not found`},
		{request.Attributes{Verb: "get", Path: "/healthz"}, request.Deny, ""},
	} {
		d, reason, err := z.Authorize(t.Context(), c.a)
		if err != nil || d != c.want || reason != c.reason {
			t.Errorf("%+v: got %v %q %v, want %v %q", c.a, d, reason, err, c.want, c.reason)
		}
	}
}

// Grants count at once, without Run; what is taken away counts as soon as the event came.
func TestChangesCount(t *testing.T) {
	s, z, rbac := setup(t)
	allowed := func(verb string) bool {
		t.Helper()
		d, _, err := z.Authorize(t.Context(), ask(who("u"), verb, "a", "pods", "p"))
		if err != nil {
			t.Fatal(err)
		}
		return d == request.Allow
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		rbac.Run(ctx, slog.New(slog.DiscardHandler))
	}()
	if allowed("get") {
		t.Error("allowed by nothing")
	}
	b := bind("a", "b", ref("Role", "r"), userSubject("u"))
	s.Put(role("a", "r", rule("get", "", "pods")), b)
	if !allowed("get") || allowed("list") {
		t.Error("the new role does not count")
	}
	s.Put(role("a", "r", rule("list", "", "pods")))
	if !allowed("list") {
		t.Error("the new rule does not count")
	}
	eventually(t, func() bool { return !allowed("get") })
	s.Delete(b)
	eventually(t, func() bool { return !allowed("list") })
	s.Put(b)
	if !allowed("list") {
		t.Error("the binding that came back does not count")
	}
	cancel()
	<-done
}

func eventually(t *testing.T, ok func() bool) {
	t.Helper()
	for range 60000 {
		if ok() {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Error("it never happened")
}

// The index decides as a plain scan over all bindings does, whatever was put and removed before.
func TestIndexAgreesWithScan(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x := newIndex()
		state := map[string]*rbacv1.RoleBinding{}
		roleRules := map[string][]rbacv1.PolicyRule{}
		revision := int64(0)
		names := rapid.SampledFrom([]string{"x", "y", "z"})
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			revision++
			ns, name := names.Draw(t, "ns"), names.Draw(t, "name")
			key := ns + "/" + name
			switch rapid.IntRange(0, 3).Draw(t, "op") {
			case 0:
				b := bind(ns, name, ref("Role", names.Draw(t, "role")), userSubject(names.Draw(t, "u1")), groupSubject(names.Draw(t, "g1")))
				state[key] = b
				x.put(roleBindings, key, revision, b)
			case 1:
				delete(state, key)
				x.remove(roleBindings, key, revision)
			case 2:
				r := role(ns, name, rule(names.Draw(t, "verb"), "", "pods"))
				roleRules[key] = r.Rules
				x.put(roles, key, revision, r)
			case 3:
				delete(roleRules, key)
				x.remove(roles, key, revision)
			}
		}
		for _, u := range []string{"x", "y", "z"} {
			for _, g := range []string{"x", "y"} {
				for _, ns := range []string{"x", "y", "z"} {
					want := 0
					for key, b := range state {
						if !strings.HasPrefix(key, ns+"/") {
							continue
						}
						for _, sub := range b.Subjects {
							if (sub.Kind == "User" && sub.Name == u) || (sub.Kind == "Group" && sub.Name == g) {
								want += len(roleRules[ns+"/"+b.RoleRef.Name])
							}
						}
					}
					got := 0
					x.visit(u, []string{g}, ns, func(_ *grant, rules []rbacv1.PolicyRule) bool {
						got += len(rules)
						return true
					}, nil)
					if got != want {
						t.Fatalf("user %s group %s in %s: %d rules, want %d", u, g, ns, got, want)
					}
				}
			}
		}
	})
}

func TestNodes(t *testing.T) {
	s, z, _ := setup(t)
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "p"}, Spec: corev1.PodSpec{
		NodeName: "n1", ServiceAccountName: "sa",
		ImagePullSecrets: []corev1.LocalObjectReference{{Name: "pull"}},
		InitContainers:   []corev1.Container{{EnvFrom: []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "from"}}}}}},
		Containers: []corev1.Container{{Env: []corev1.EnvVar{{ValueFrom: &corev1.EnvVarSource{
			ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "key"}}}}}}},
		Volumes: []corev1.Volume{
			{Name: "s", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "vol"}}},
			{Name: "c", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "claim"}}},
			{Name: "e", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}},
			{Name: "p", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
				{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "proj"}}}}}}},
		},
	}}
	mirror := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "m", Annotations: map[string]string{corev1.MirrorPodAnnotationKey: "x"}},
		Spec: corev1.PodSpec{NodeName: "n1", ImagePullSecrets: []corev1.LocalObjectReference{{Name: "mirrored"}}}}
	s.Put(pod, mirror,
		&certificatesv1.PodCertificateRequest{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "r"}, Spec: certificatesv1.PodCertificateRequestSpec{NodeName: "n1"}},
		&resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: "s"}, Spec: resourcev1.ResourceSliceSpec{NodeName: new("n1")}},
		&resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: "everywhere"}, Spec: resourcev1.ResourceSliceSpec{AllNodes: new(true)}},
		&corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "claim"}, Spec: corev1.PersistentVolumeClaimSpec{VolumeName: "pv"}},
		&corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv"}, Spec: corev1.PersistentVolumeSpec{
			ClaimRef: &corev1.ObjectReference{Namespace: "a", Name: "claim"},
			PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{
				NodeStageSecretRef: &corev1.SecretReference{Namespace: "a", Name: "stage"}}}}},
		&corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "other"}})
	n1, n2 := who("system:node:n1", user.NodesGroup), who("system:node:n2", user.NodesGroup)
	const unrelated = "node: no relationship found between node 'n1' and this object"
	for _, c := range []struct {
		a      request.Attributes
		want   request.Decision
		reason string
	}{
		{ask(n1, "get", "a", "secrets", "pull"), request.Allow, ""},
		{ask(n1, "watch", "a", "secrets", "from"), request.Allow, ""},
		{ask(n1, "get", "a", "secrets", "vol"), request.Allow, ""},
		{ask(n1, "get", "a", "secrets", "stage"), request.Allow, ""},
		{ask(n1, "get", "a", "secrets", "mirrored"), request.NoOpinion, unrelated},
		{ask(n1, "get", "a", "secrets", "x"), request.NoOpinion, unrelated},
		{ask(n1, "get", "b", "secrets", "pull"), request.NoOpinion, unrelated},
		{ask(n1, "list", "a", "secrets", ""), request.NoOpinion, "node: No Object name found"},
		{ask(n1, "update", "a", "secrets", "pull"), request.NoOpinion, "node: can only read resources of this type"},
		{ask(n2, "get", "a", "secrets", "pull"), request.NoOpinion, "node: no relationship found between node 'n2' and this object"},
		{ask(n1, "get", "a", "configmaps", "key"), request.Allow, ""},
		{ask(n1, "get", "a", "configmaps", "proj"), request.Allow, ""},
		{ask(n1, "get", "a", "configmaps", "x"), request.NoOpinion, unrelated},
		{ask(n1, "get", "a", "persistentvolumeclaims", "claim"), request.Allow, ""},
		{ask(n1, "get", "a", "persistentvolumeclaims", "p-e"), request.Allow, ""},
		{ask(n1, "get", "", "persistentvolumes", "pv"), request.Allow, ""},
		{ask(n1, "get", "", "persistentvolumes", "other"), request.NoOpinion, unrelated},
		{ask(n1, "list", "", "persistentvolumes", ""), request.NoOpinion, "node: can only get individual resources of this type"},
		{ask(n1, "create", "a", "serviceaccounts/token", "sa"), request.Allow, ""},
		{ask(n1, "create", "a", "serviceaccounts/token", "default"), request.NoOpinion, unrelated},
		{ask(n1, "get", "a", "serviceaccounts", "sa"), request.Allow, ""},
		{ask(n1, "get", "a", "serviceaccounts", "default"), request.NoOpinion, unrelated},
		{ask(n1, "list", "a", "serviceaccounts", ""), request.NoOpinion, "node: can only create tokens for individual service accounts"},
		{ask(n1, "create", "a", "serviceaccounts", "sa"), request.NoOpinion, "node: can only create token subresource of serviceaccount"},
		{ask(n1, "get", "a", "secrets/status", "pull"), request.NoOpinion, "node: cannot read subresource"},
		{ask(n1, "get", "", "secrets", "pull"), request.NoOpinion, "node: can only read namespaced object of this type"},
		{ask(n1, "get", "", "persistentvolumes/status", "pv"), request.NoOpinion, "node: cannot get subresource"},
		{ask(n1, "get", "", "persistentvolumes", ""), request.NoOpinion, "node: No Object name found"},
		{ask(n1, "patch", "a", "persistentvolumeclaims/status", "claim"), request.Allow, ""},
		{ask(n2, "patch", "a", "persistentvolumeclaims/status", "claim"), request.NoOpinion, "node: no relationship found between node 'n2' and this object"},
		{ask(n1, "get", "a", "persistentvolumeclaims/status", "claim"), request.NoOpinion, "node: can only get/update/patch this type"},
		{ask(n1, "create", "a", "podcertificaterequests.certificates.k8s.io", ""), request.Allow, ""},
		{ask(n1, "get", "a", "podcertificaterequests.certificates.k8s.io", "r"), request.Allow, ""},
		{ask(n2, "get", "a", "podcertificaterequests.certificates.k8s.io", "r"), request.NoOpinion, "node: no relationship found between node 'n2' and this object"},
		{ask(n1, "delete", "a", "podcertificaterequests.certificates.k8s.io", "r"), request.NoOpinion, "node: nodes may not delete podcertificaterequests"},
		{selecting(ask(n1, "watch", "", "podcertificaterequests.certificates.k8s.io", ""), "spec.nodeName=n1"), request.Allow, ""},
		{selecting(ask(n1, "list", "", "podcertificaterequests.certificates.k8s.io", ""), "spec.nodeName=n2"), request.NoOpinion, "node: can only list/watch podcertificaterequests with nodeName field selector"},
		{ask(n1, "list", "", "podcertificaterequests.certificates.k8s.io", ""), request.NoOpinion, "node: can only list/watch podcertificaterequests with nodeName field selector"},
		{ask(n1, "update", "a", "podcertificaterequests.certificates.k8s.io/status", "r"), request.NoOpinion, "node: nodes may not access the status subresource of PodCertificateRequests"},
		{ask(n1, "create", "", "resourceslices.resource.k8s.io", ""), request.Allow, ""},
		{ask(n1, "get", "", "resourceslices.resource.k8s.io", "s"), request.Allow, ""},
		{ask(n1, "delete", "", "resourceslices.resource.k8s.io", "s"), request.Allow, ""},
		{ask(n2, "delete", "", "resourceslices.resource.k8s.io", "s"), request.NoOpinion, "node: no relationship found between node 'n2' and this object"},
		{ask(n1, "update", "", "resourceslices.resource.k8s.io", "everywhere"), request.NoOpinion, unrelated},
		{selecting(ask(n1, "deletecollection", "", "resourceslices.resource.k8s.io", ""), "spec.nodeName=n1,spec.driver=d"), request.Allow, ""},
		{selecting(ask(n1, "watch", "", "resourceslices.resource.k8s.io", ""), "spec.nodeName=n2"), request.NoOpinion, "node: can only list/watch/deletecollection resourceslices with nodeName field selector"},
		{ask(n1, "list", "", "resourceslices.resource.k8s.io", ""), request.NoOpinion, "node: can only list/watch/deletecollection resourceslices with nodeName field selector"},
		{ask(n1, "get", "", "resourceslices.resource.k8s.io/status", "s"), request.NoOpinion, "node: cannot authorize ResourceSlice subresources"},
		{ask(n1, "create", "", "nodes", ""), request.Allow, ""},
		{ask(n1, "get", "kube-node-lease", "leases.coordination.k8s.io", "n1"), request.Allow, ""},
		{ask(n1, "get", "kube-node-lease", "leases.coordination.k8s.io", "n2"), request.NoOpinion, "node: can only access node lease with the same name as the requesting node"},
		{ask(n1, "get", "a", "leases.coordination.k8s.io", "n1"), request.NoOpinion, `node: can only access leases in the "kube-node-lease" system namespace`},
		{ask(n1, "get", "", "csinodes.storage.k8s.io", "n2"), request.NoOpinion, "node: can only access CSINode with the same name as the requesting node"},
		{ask(n1, "patch", "", "csinodes.storage.k8s.io/status", "n1"), request.NoOpinion, "node: CSINode status access requires CSIVolumeHealth feature"},
		{ask(who("system:node:n1"), "get", "a", "secrets", "pull"), request.NoOpinion, ""},
	} {
		d, reason, err := z.Authorize(t.Context(), c.a)
		if err != nil || d != c.want || reason != c.reason {
			t.Errorf("%s %s %s %s: got %v %q %v, want %v %q", c.a.User.GetName(), c.a.Verb, c.a.Resource, c.a.Name, d, reason, err, c.want, c.reason)
		}
	}
}

func TestGuard(t *testing.T) {
	s, z, rbac := setup(t)
	guard := NewGuard(z, rbac)
	s.Put(
		role("a", "grant", rule("create,update", rbacv1.GroupName, "roles,rolebindings"), rule("get,list", "", "pods"), rule("bind", rbacv1.GroupName, "clusterroles", "view")),
		bind("a", "grant", ref("Role", "grant"), userSubject("bob")),
		clusterRole("view", rule("get", "", "configmaps")),
		clusterRole("admin", everything()...),
		clusterRole("esc", rule("escalate", rbacv1.GroupName, "roles")),
		bindCluster("esc", "esc", userSubject("eve")),
	)
	bob := who("bob", "team", user.AllAuthenticated)
	aggregating := clusterRole("agg")
	aggregating.AggregationRule = &rbacv1.AggregationRule{}
	labelled := role("a", "r", rule("get", "", "secrets"))
	labelled.Labels = map[string]string{"a": "b"}
	collected := role("a", "r", rule("get", "", "secrets"))
	collected.Finalizers = []string{"x"}
	const attempt = `user "bob" (groups=["team" "system:authenticated"]) is attempting to grant RBAC permissions not currently held:` + "\n"
	for _, c := range []struct {
		name     string
		u        user.Info
		obj, old runtime.Object
		want     string
	}{
		{"what he holds", bob, role("a", "r", rule("get", "", "pods")), nil, ""},
		{"something else", bob, &corev1.Pod{}, nil, ""},
		{"root", who("root", user.SystemPrivilegedGroup), role("a", "r", everything()...), nil, ""},
		{"escalate", who("eve"), role("a", "r", everything()...), nil, ""},
		{"a secret", bob, role("a", "no", rule("get", "", "secrets")), nil,
			`roles.rbac.authorization.k8s.io "no" is forbidden: ` + attempt + `{APIGroups:[""], Resources:["secrets"], Verbs:["get"]}`},
		{"many", bob, role("a", "no", rule("get,delete", "", "pods,pods/log", "x", "z"), rule("*", "*", "*")), nil,
			`roles.rbac.authorization.k8s.io "no" is forbidden: ` + attempt + strings.Join([]string{
				`{APIGroups:[""], Resources:["pods"], ResourceNames:["x"], Verbs:["delete"]}`,
				`{APIGroups:[""], Resources:["pods"], ResourceNames:["z"], Verbs:["delete"]}`,
				`{APIGroups:[""], Resources:["pods/log"], ResourceNames:["x"], Verbs:["get" "delete"]}`,
				`{APIGroups:[""], Resources:["pods/log"], ResourceNames:["z"], Verbs:["get" "delete"]}`,
				`{APIGroups:["*"], Resources:["*"], Verbs:["*"]}`}, "\n")},
		{"another namespace", bob, role("b", "no", rule("get", "", "pods")), nil,
			`roles.rbac.authorization.k8s.io "no" is forbidden: ` + attempt + `{APIGroups:[""], Resources:["pods"], Verbs:["get"]}`},
		{"labels of a role that he does not hold", bob, labelled, role("a", "r", rule("get", "", "secrets")),
			`roles.rbac.authorization.k8s.io "r" is forbidden: ` + attempt + `{APIGroups:[""], Resources:["secrets"], Verbs:["get"]}`},
		{"the collector's fields", bob, role("a", "r", rule("get", "", "secrets")), collected, ""},
		{"aggregation", bob, aggregating, nil, `clusterroles.rbac.authorization.k8s.io "agg" is forbidden: must have cluster-admin privileges to use the aggregationRule`},
		{"may bind", bob, bind("a", "c1", ref("ClusterRole", "view"), userSubject("x")), nil, ""},
		{"holds all of it", bob, bind("a", "c1", ref("Role", "grant"), userSubject("x")), nil, ""},
		{"binds too much", bob, bind("a", "adm", ref("ClusterRole", "admin"), userSubject("x")), nil,
			`rolebindings.rbac.authorization.k8s.io "adm" is forbidden: ` + attempt + "{APIGroups:[\"*\"], Resources:[\"*\"], Verbs:[\"*\"]}\n{NonResourceURLs:[\"*\"], Verbs:[\"*\"]}"},
		{"binds nothing", bob, bind("a", "c3", ref("Role", "absent"), userSubject("x")), nil, `rolebindings.rbac.authorization.k8s.io "absent" not found`},
		{"cluster binding", bob, bindCluster("c", "view", userSubject("x")), nil,
			`clusterrolebindings.rbac.authorization.k8s.io "c" is forbidden: ` + attempt + `{APIGroups:[""], Resources:["configmaps"], Verbs:["get"]}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := ""
			if err := guard.Check(t.Context(), c.u, "", c.obj, c.old); err != nil {
				got = err.Error()
				if !apierrors.IsForbidden(err) && !apierrors.IsNotFound(err) {
					t.Errorf("not an error of the API: %v", err)
				}
			}
			if got != c.want {
				t.Errorf("got\n%s\nwant\n%s", got, c.want)
			}
		})
	}
}

func TestReviews(t *testing.T) {
	s, z, _ := setup(t)
	s.Put(clusterRole("reader", rule("get", "", "pods"), rbacv1.PolicyRule{Verbs: []string{"get"}, NonResourceURLs: []string{"/x"}}),
		bindCluster("b", "reader", userSubject("u")), bind("a", "dangling", ref("Role", "nope"), userSubject("u")))
	got := z.Review(t.Context(), who("u"), &authorizationv1.ResourceAttributes{Verb: "get", Resource: "pods", Namespace: "b"}, nil)
	if !got.Allowed || got.Denied || !strings.HasPrefix(got.Reason, "RBAC: allowed by") {
		t.Errorf("got %+v", got)
	}
	if got := z.Review(t.Context(), who("u"), nil, &authorizationv1.NonResourceAttributes{Verb: "get", Path: "/y"}); got.Allowed {
		t.Errorf("got %+v", got)
	}
	// What everybody may read without any role is no answer to a question about roles.
	if got := z.Review(t.Context(), who("u"), nil, &authorizationv1.NonResourceAttributes{Verb: "get", Path: "/healthz"}); got.Allowed {
		t.Errorf("got %+v", got)
	}
	bad := &authorizationv1.ResourceAttributes{Verb: "list", Resource: "pods", LabelSelector: &authorizationv1.LabelSelectorAttributes{RawSelector: "a in ("}}
	if got := z.Review(t.Context(), who("u"), bad, nil); got.EvaluationError != "spec.resourceAttributes.labelSelector ignored due to parse error" {
		t.Errorf("got %+v", got)
	}
	rules, err := z.RulesFor(t.Context(), who("u"), "b")
	if err != nil || rules.Incomplete || len(rules.ResourceRules) != 1 || len(rules.NonResourceRules) != 1 {
		t.Errorf("got %+v, %v", rules, err)
	}
	if rules, err := z.RulesFor(t.Context(), who("u"), "a"); err != nil || !rules.Incomplete || rules.EvaluationError == "" {
		t.Errorf("got %+v, %v", rules, err)
	}
	if rules, err := z.RulesFor(t.Context(), who("system:node:n", user.NodesGroup), "a"); err != nil || !rules.Incomplete {
		t.Errorf("got %+v, %v", rules, err)
	}
	if _, err := z.RulesFor(t.Context(), who("u"), ""); !apierrors.IsBadRequest(err) {
		t.Errorf("got %v", err)
	}
}

func benchmark(b *testing.B, a request.Attributes) {
	s, z, _ := setup(b)
	for i := range 1000 {
		ns := fmt.Sprintf("ns-%d", i)
		s.Put(bind(ns, "b", ref("ClusterRole", "edit"), userSubject("dev-"+ns)))
	}
	for i := range 60 {
		name := fmt.Sprintf("system:controller:c%d", i)
		s.Put(clusterRole(name, rule("get,list,watch", "", "pods")), bindCluster(name, name, userSubject(name)))
	}
	var rules []rbacv1.PolicyRule
	for i := range 40 {
		rules = append(rules, rule("create,delete,get,list,patch,update,watch", "apps", fmt.Sprintf("a%d,b%d,c%d,d%d", i, i, i, i)))
	}
	s.Put(clusterRole("edit", append(rules, rule("get,list,watch", "", "configmaps,pods"))...))
	ctx := b.Context()
	if d, _, err := z.Authorize(ctx, a); d != request.Allow || err != nil {
		b.Fatal(d, err)
	}
	b.ReportAllocs()
	b.ResetTimer()
	for b.Loop() {
		if d, _, _ := z.Authorize(ctx, a); d != request.Allow {
			b.Fatal("refused")
		}
	}
}

func BenchmarkMasters(b *testing.B) {
	benchmark(b, ask(who("root", user.SystemPrivilegedGroup), "get", "ns-7", "pods", "p"))
}

func BenchmarkRoleBinding(b *testing.B) {
	benchmark(b, ask(who("dev-ns-7", user.AllAuthenticated), "get", "ns-7", "pods", "p"))
}
