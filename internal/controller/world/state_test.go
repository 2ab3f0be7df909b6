package world

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// apart is what a scenario has besides workloads, in its namespace or by its name.
func (w *world) apart(namespace string) (out []string) {
	w.t.Helper()
	ctx, all := w.ctx, metav1.ListOptions{}
	say := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	ours := func(name string) bool {
		return name == namespace || strings.HasPrefix(name, namespace+"-") || strings.HasPrefix(name, namespace+".")
	}
	core, system := w.Client.CoreV1(), metav1.NamespaceSystem

	controllers, err := core.ReplicationControllers(namespace).List(ctx, all)
	w.must(err)
	for _, r := range controllers.Items {
		say("ReplicationController %s has %d ready %d", r.Name, r.Status.Replicas, r.Status.ReadyReplicas)
	}
	scalers, err := w.Client.AutoscalingV2().HorizontalPodAutoscalers(namespace).List(ctx, all)
	w.must(err)
	for _, h := range scalers.Items {
		say("HorizontalPodAutoscaler %s has %d wants %d", h.Name, h.Status.CurrentReplicas, h.Status.DesiredReplicas)
	}
	claims, err := core.PersistentVolumeClaims(namespace).List(ctx, all)
	w.must(err)
	for _, c := range claims.Items {
		say("PersistentVolumeClaim %s %s on %s going %v finalizers %v", c.Name, c.Status.Phase, strings.TrimPrefix(c.Spec.VolumeName, namespace), c.DeletionTimestamp != nil, c.Finalizers)
	}
	volumes, err := core.PersistentVolumes().List(ctx, all)
	w.must(err)
	bound := map[string]bool{}
	for _, v := range volumes.Items {
		if ours(v.Name) {
			bound[v.Name] = true
			claim := ""
			if v.Spec.ClaimRef != nil {
				claim = v.Spec.ClaimRef.Name
			}
			say("PersistentVolume %s %s of %q finalizers %v", strings.TrimPrefix(v.Name, namespace), v.Status.Phase, claim, v.Finalizers)
		}
	}
	attachments, err := w.Client.StorageV1().VolumeAttachments().List(ctx, all)
	w.must(err)
	for _, a := range attachments.Items {
		if name := a.Spec.Source.PersistentVolumeName; name != nil && bound[*name] {
			say("VolumeAttachment of %s", strings.TrimPrefix(*name, namespace))
		}
	}
	devices, err := w.Client.ResourceV1().ResourceClaims(namespace).List(ctx, all)
	w.must(err)
	for _, c := range devices.Items {
		say("ResourceClaim of %s allocated %v reserved for %d", owner(&c), c.Status.Allocation != nil, len(c.Status.ReservedFor))
	}
	quotas, err := core.ResourceQuotas(namespace).List(ctx, all)
	w.must(err)
	for _, q := range quotas.Items {
		for _, name := range slices.Sorted(maps.Keys(q.Status.Used)) {
			n := q.Status.Used[name]
			say("ResourceQuota %s uses %s %s", q.Name, n.String(), name)
		}
	}
	secrets, err := core.Secrets(namespace).List(ctx, all)
	w.must(err)
	for _, s := range secrets.Items {
		say("Secret %s with %v", s.Name, slices.Sorted(maps.Keys(s.Data)))
	}
	tokens, err := core.Secrets(system).List(ctx, all)
	w.must(err)
	for _, s := range tokens.Items {
		if s.Name == "bootstrap-token-"+namespace {
			say("the bootstrap token is still there")
		}
	}
	requests, err := w.Client.CertificatesV1().CertificateSigningRequests().List(ctx, all)
	w.must(err)
	for _, r := range requests.Items {
		if ours(r.Name) {
			say("CertificateSigningRequest issued %v %v", len(r.Status.Certificate) > 0, r.Status.Conditions)
		}
	}
	roles, err := w.Client.RbacV1().ClusterRoles().List(ctx, all)
	w.must(err)
	for _, r := range roles.Items {
		if ours(r.Name) {
			say("ClusterRole %s with %d rules", strings.TrimPrefix(r.Name, namespace), len(r.Rules))
		}
	}
	policies, err := w.Client.AdmissionregistrationV1().ValidatingAdmissionPolicies().List(ctx, all)
	w.must(err)
	for _, p := range policies.Items {
		if ours(p.Name) {
			say("ValidatingAdmissionPolicy seen %v checked %v", p.Status.ObservedGeneration == p.Generation, p.Status.TypeChecking != nil)
		}
	}
	migrations, err := w.Client.StoragemigrationV1().StorageVersionMigrations().List(ctx, all)
	w.must(err)
	for _, m := range migrations.Items {
		if ours(m.Name) {
			say("StorageVersionMigration succeeded %v", meta.IsStatusConditionTrue(m.Status.Conditions, "Succeeded"))
		}
	}
	namespaces, err := core.Namespaces().List(ctx, all)
	w.must(err)
	for _, n := range namespaces.Items {
		if n.Name != namespace && ours(n.Name) {
			say("Namespace %s %s", strings.TrimPrefix(n.Name, namespace), n.Status.Phase)
		}
	}
	nodes, err := core.Nodes().List(ctx, all)
	w.must(err)
	for _, n := range nodes.Items {
		if ours(n.Name) {
			say("Node %s", strings.TrimPrefix(n.Name, namespace))
		} else if !strings.HasSuffix(n.Name, "-node") && (len(n.Spec.PodCIDRs) != 1 || n.Annotations["node.alpha.kubernetes.io/ttl"] == "") {
			say("Node %s has ranges %v and annotations %v", n.Name, n.Spec.PodCIDRs, n.Annotations)
		}
	}
	if n, err := core.ConfigMaps(namespace).Get(ctx, "kube-root-ca.crt", metav1.GetOptions{}); err != nil || n.Data["ca.crt"] == "" {
		say("no authority: %v", err)
	}
	if _, err := core.ServiceAccounts(namespace).Get(ctx, corev1.NamespaceDefault, metav1.GetOptions{}); err != nil {
		say("no account: %v", err)
	}
	if b, err := w.Client.CertificatesV1().ClusterTrustBundles().List(ctx, all); err != nil || len(b.Items) != 1 {
		say("bundles of trust: %v", err)
	}
	return out
}
