package world

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	migrationv1 "k8s.io/api/storagemigration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// called is the metadata of something in the scenario of a namespace; what is in no namespace has that one's name before its own.
func called(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Name: name} }

// pod is a pod that nobody controls.
func (w *world) pod(ns, name string, change func(*corev1.PodSpec)) {
	w.t.Helper()
	spec := template("v1", corev1.RestartPolicyAlways).Spec
	change(&spec)
	_, err := w.Client.CoreV1().Pods(ns).Create(w.ctx, &corev1.Pod{ObjectMeta: called(name), Spec: spec}, o)
	w.must(err)
}

// deviceUser makes a pod for a node that uses a claim.
func (w *world) deviceUser(ns, node string, claim corev1.PodResourceClaim) {
	w.t.Helper()
	claim.Name = "c"
	w.pod(ns, "on-"+node, func(s *corev1.PodSpec) {
		s.NodeSelector = map[string]string{corev1.LabelHostname: node}
		s.ResourceClaims = []corev1.PodResourceClaim{claim}
		s.Containers[0].Resources.Claims = []corev1.ResourceClaim{{Name: claim.Name}}
	})
}

// run waits, for a while, until a pod runs.
func (w *world) run(ns, name string) {
	for range 24 {
		if p, err := w.Client.CoreV1().Pods(ns).Get(w.ctx, name, metav1.GetOptions{}); err == nil && p.Status.Phase == corev1.PodRunning {
			return
		}
		time.Sleep(5 * time.Second)
	}
}

// gone lets what is to be deleted be gone already.
func (w *world) gone(err error) {
	w.t.Helper()
	if !apierrors.IsNotFound(err) {
		w.must(err)
	}
}

// aNode is a node that comes, is tainted, and goes with a pod on it.
var aNode = scenario{"Node", []step{
	{0, func(w *world, ns string) {
		n := &corev1.Node{ObjectMeta: called(ns + "-node"), Spec: corev1.NodeSpec{Taints: []corev1.Taint{{Key: "private", Effect: corev1.TaintEffectNoSchedule}}}, Status: corev1.NodeStatus{
			Allocatable: corev1.ResourceList{"cpu": resource.MustParse("10"), "memory": resource.MustParse("1Gi"), "pods": resource.MustParse("10")},
			Conditions:  []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastHeartbeatTime: metav1.Now()}},
		}}
		_, err := w.Client.CoreV1().Nodes().Create(w.ctx, n, o)
		w.must(err)
		for name, tolerations := range map[string][]corev1.Toleration{"goes": nil, "stays": {{Operator: corev1.TolerationOpExists}}} {
			w.pod(ns, name, func(s *corev1.PodSpec) { s.NodeName, s.Tolerations = ns+"-node", tolerations })
		}
	}},
	{20 * time.Second, func(w *world, ns string) {
		n, err := w.Client.CoreV1().Nodes().Get(w.ctx, ns+"-node", metav1.GetOptions{})
		w.must(err)
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: "out", Effect: corev1.TaintEffectNoExecute})
		_, err = w.Client.CoreV1().Nodes().Update(w.ctx, n, metav1.UpdateOptions{})
		if apierrors.IsConflict(err) { // a controller was faster
			time.Sleep(time.Second)
			n, err = w.Client.CoreV1().Nodes().Get(w.ctx, ns+"-node", metav1.GetOptions{})
			w.must(err)
			n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: "out", Effect: corev1.TaintEffectNoExecute})
			_, err = w.Client.CoreV1().Nodes().Update(w.ctx, n, metav1.UpdateOptions{})
		}
		w.must(err)
	}},
	{40 * time.Second, func(w *world, ns string) { w.must(w.Client.CoreV1().Nodes().Delete(w.ctx, ns+"-node", removal)) }},
}, 4 * time.Minute, func(w *world, ns string) {}}

// someStorage are claims that are bound, in use and let go, made for a pod, and attached to a node.
var someStorage = scenario{"Storage", []step{
	{0, func(w *world, ns string) {
		wait := storagev1.VolumeBindingWaitForFirstConsumer
		for name, mode := range map[string]*storagev1.VolumeBindingMode{"later": &wait, "kept": &wait, "now": nil} {
			_, err := w.Client.StorageV1().StorageClasses().Create(w.ctx, &storagev1.StorageClass{ObjectMeta: called(ns + "-" + name), Provisioner: "kubernetes.io/no-provisioner", VolumeBindingMode: mode}, o)
			w.must(err)
		}
		_, err := w.Client.StorageV1().CSIDrivers().Create(w.ctx, &storagev1.CSIDriver{ObjectMeta: called(ns + ".csi.example")}, o)
		w.must(err)
		for name, size := range map[string]string{"later": "1Gi", "kept": "2Gi", "now": "1Gi"} {
			v := &corev1.PersistentVolume{ObjectMeta: called(ns + "-" + name), Spec: corev1.PersistentVolumeSpec{
				Capacity: corev1.ResourceList{"storage": resource.MustParse(size)}, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
				PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimRetain, StorageClassName: ns + "-" + name,
				PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/nowhere"}}}}
			if name == "now" {
				v.Spec.PersistentVolumeSource = corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: ns + ".csi.example", VolumeHandle: name}}
			}
			_, err := w.Client.CoreV1().PersistentVolumes().Create(w.ctx, v, o)
			w.must(err)
		}
		claim := func(class, size string) corev1.PersistentVolumeClaimSpec {
			return corev1.PersistentVolumeClaimSpec{AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: ptr.To(ns + "-" + class),
				Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{"storage": resource.MustParse(size)}}}
		}
		for name, spec := range map[string]corev1.PersistentVolumeClaimSpec{"kept": claim("kept", "2Gi"), "now": claim("now", "1Gi")} {
			_, err := w.Client.CoreV1().PersistentVolumeClaims(ns).Create(w.ctx, &corev1.PersistentVolumeClaim{ObjectMeta: called(name), Spec: spec}, o)
			w.must(err)
			w.pod(ns, name, func(s *corev1.PodSpec) {
				s.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name}}}}
			})
		}
		w.pod(ns, "own", func(s *corev1.PodSpec) {
			s.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{
				VolumeClaimTemplate: &corev1.PersistentVolumeClaimTemplate{Spec: claim("later", "1Gi")}}}}}
		})
	}},
	{60 * time.Second, func(w *world, ns string) {
		w.run(ns, "kept")
		w.run(ns, "now")
		w.must(w.Client.CoreV1().PersistentVolumeClaims(ns).Delete(w.ctx, "kept", removal))
	}},
	{90 * time.Second, func(w *world, ns string) {
		for _, name := range []string{"kept", "now"} { // the claim that is deleted goes, the volume that is attached is detached
			w.must(w.Client.CoreV1().Pods(ns).Delete(w.ctx, name, removal))
		}
	}},
}, 4 * time.Minute, func(w *world, ns string) {
	w.must(w.Client.CoreV1().Pods(ns).Delete(w.ctx, "own", removal))
	w.must(w.Client.CoreV1().PersistentVolumeClaims(ns).Delete(w.ctx, "now", removal))
	for _, name := range []string{"later", "kept", "now"} {
		w.must(w.Client.CoreV1().PersistentVolumes().Delete(w.ctx, ns+"-"+name, removal))
		w.must(w.Client.StorageV1().StorageClasses().Delete(w.ctx, ns+"-"+name, removal))
	}
	w.must(w.Client.StorageV1().CSIDrivers().Delete(w.ctx, ns+".csi.example", removal))
}}

// someDevices are claims of pods, one of which loses its device to a taint.
var someDevices = scenario{"Devices", []step{
	{0, func(w *world, ns string) {
		driver := ns + ".dra.example"
		_, err := w.Client.ResourceV1().DeviceClasses().Create(w.ctx, &resourcev1.DeviceClass{ObjectMeta: called(ns), Spec: resourcev1.DeviceClassSpec{
			Selectors: []resourcev1.DeviceSelector{{CEL: &resourcev1.CELDeviceSelector{Expression: `device.driver == "` + driver + `"`}}}}}, o)
		w.must(err)
		for _, node := range []string{"node-0", "node-1"} {
			_, err := w.Client.ResourceV1().ResourceSlices().Create(w.ctx, &resourcev1.ResourceSlice{ObjectMeta: called(ns + "-" + node), Spec: resourcev1.ResourceSliceSpec{
				Driver: driver, NodeName: ptr.To(node), Pool: resourcev1.ResourcePool{Name: node, Generation: 1, ResourceSliceCount: 1}, Devices: []resourcev1.Device{{Name: "d"}}}}, o)
			w.must(err)
		}
		spec := resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{{
			Name: "r", Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: ns, AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: 1}}}}}
		_, err = w.Client.ResourceV1().ResourceClaimTemplates(ns).Create(w.ctx, &resourcev1.ResourceClaimTemplate{ObjectMeta: called("t"), Spec: resourcev1.ResourceClaimTemplateSpec{Spec: spec}}, o)
		w.must(err)
		_, err = w.Client.ResourceV1().ResourceClaims(ns).Create(w.ctx, &resourcev1.ResourceClaim{ObjectMeta: called("shared"), Spec: spec}, o)
		w.must(err)
		for node, claim := range map[string]corev1.PodResourceClaim{
			"node-0": {ResourceClaimTemplateName: ptr.To("t")}, "node-1": {ResourceClaimName: ptr.To("shared")},
		} {
			w.deviceUser(ns, node, claim)
		}
	}},
	{60 * time.Second, func(w *world, ns string) { // somebody marks the device of the first, the second lets its own go
		w.run(ns, "on-node-0") // under faults they may not have them yet
		_, err := w.Client.ResourceV1().DeviceTaintRules().Create(w.ctx, &resourcev1.DeviceTaintRule{ObjectMeta: called(ns), Spec: resourcev1.DeviceTaintRuleSpec{
			DeviceSelector: &resourcev1.DeviceTaintSelector{Driver: ptr.To(ns + ".dra.example"), Pool: ptr.To("node-0")},
			Taint:          resourcev1.DeviceTaint{Key: "broken", Effect: resourcev1.DeviceTaintEffectNoExecute}}}, o)
		w.must(err)
		w.must(w.Client.CoreV1().Pods(ns).Delete(w.ctx, "on-node-1", removal))
	}},
}, 4 * time.Minute, func(w *world, ns string) {
	w.must(w.Client.ResourceV1().ResourceClaims(ns).Delete(w.ctx, "shared", removal))
	w.must(w.Client.ResourceV1().ResourceClaimTemplates(ns).Delete(w.ctx, "t", removal))
	w.must(w.Client.ResourceV1().DeviceTaintRules().Delete(w.ctx, ns, removal))
	w.must(w.Client.ResourceV1().DeviceClasses().Delete(w.ctx, ns, removal))
	for _, node := range []string{"node-0", "node-1"} {
		w.must(w.Client.ResourceV1().ResourceSlices().Delete(w.ctx, ns+"-"+node, removal))
	}
}}

// theRest is what the other controllers do: accounts, certificates, quotas, sizes, roles, policies, namespaces, what is stored. A quota hears
// of new pods from admission, which is not here, or every five minutes.
var theRest = scenario{"Rest", []step{
	{0, createRest},
	{150 * time.Second, func(w *world, ns string) {
		// A request is removed an hour after it was answered. How it was answered is kept.
		csr, err := w.Client.CertificatesV1().CertificateSigningRequests().Get(w.ctx, ns, metav1.GetOptions{})
		w.must(err)
		if len(csr.Status.Certificate) == 0 {
			return // the state shows that it is still there
		}
		w.must(w.Client.CertificatesV1().CertificateSigningRequests().Delete(w.ctx, ns, removal))
		w.must(w.Client.CoreV1().Namespaces().Delete(w.ctx, ns+"-inner", removal))
	}},
}, 8 * time.Minute, func(w *world, ns string) {
	w.must(w.Client.AutoscalingV2().HorizontalPodAutoscalers(ns).Delete(w.ctx, "scaled", removal))
	w.must(w.Client.AppsV1().Deployments(ns).Delete(w.ctx, "scaled", removal))
	w.must(w.Client.CoreV1().ReplicationControllers(ns).Delete(w.ctx, "rc", removal))
	w.must(w.Client.CoreV1().ResourceQuotas(ns).Delete(w.ctx, "q", removal))
	w.must(w.Client.CoreV1().ServiceAccounts(ns).Delete(w.ctx, "account", removal))
	for _, name := range []string{"", "-part"} {
		w.must(w.Client.RbacV1().ClusterRoles().Delete(w.ctx, ns+name, removal))
	}
	w.must(w.Client.AdmissionregistrationV1().ValidatingAdmissionPolicies().Delete(w.ctx, ns, removal))
	w.must(w.Client.StoragemigrationV1().StorageVersionMigrations().Delete(w.ctx, ns, removal))
	w.gone(w.Client.CoreV1().Secrets(ns).Delete(w.ctx, "token", removal))
}}

func createRest(w *world, ns string) {
	w.t.Helper()
	other := map[string]string{"app": "scaled"}
	t := template("v1", corev1.RestartPolicyAlways)
	t.Labels = other
	_, err := w.Client.AppsV1().Deployments(ns).Create(w.ctx, &appsv1.Deployment{ObjectMeta: called("scaled"), Spec: appsv1.DeploymentSpec{Selector: &metav1.LabelSelector{MatchLabels: other}, Template: t}}, o)
	w.must(err)
	_, err = w.Client.AutoscalingV2().HorizontalPodAutoscalers(ns).Create(w.ctx, &autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: called("scaled"), Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
		ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "scaled"}, MaxReplicas: 5,
		Metrics: []autoscalingv2.MetricSpec{{Type: autoscalingv2.ExternalMetricSourceType, External: &autoscalingv2.ExternalMetricSource{
			Metric: autoscalingv2.MetricIdentifier{Name: "m"}, Target: autoscalingv2.MetricTarget{Type: autoscalingv2.AverageValueMetricType, AverageValue: ptr.To(resource.MustParse("5"))}}}}}}, o)
	w.must(err)
	t.Labels = map[string]string{"app": "rc"}
	_, err = w.Client.CoreV1().ReplicationControllers(ns).Create(w.ctx, &corev1.ReplicationController{ObjectMeta: called("rc"), Spec: corev1.ReplicationControllerSpec{Replicas: ptr.To(int32(2)), Selector: t.Labels, Template: &t}}, o)
	w.must(err)
	_, err = w.Client.CoreV1().ResourceQuotas(ns).Create(w.ctx, &corev1.ResourceQuota{ObjectMeta: called("q"), Spec: corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{"pods": resource.MustParse("100"), "count/deployments.apps": resource.MustParse("10")}}}, o)
	w.must(err)
	_, err = w.Client.CoreV1().ServiceAccounts(ns).Create(w.ctx, &corev1.ServiceAccount{ObjectMeta: called("account")}, o)
	w.must(err)
	token := &corev1.Secret{ObjectMeta: called("token"), Type: corev1.SecretTypeServiceAccountToken}
	token.Annotations = map[string]string{corev1.ServiceAccountNameKey: "account"}
	_, err = w.Client.CoreV1().Secrets(ns).Create(w.ctx, token, o)
	w.must(err)
	_, err = w.Client.CoreV1().Secrets(metav1.NamespaceSystem).Create(w.ctx, &corev1.Secret{ObjectMeta: called("bootstrap-token-" + ns), Type: "bootstrap.kubernetes.io/token", Data: map[string][]byte{
		"token-id": []byte("abcdef"), "token-secret": []byte("0123456789abcdef"), "expiration": []byte(time.Now().Add(time.Minute).UTC().Format(time.RFC3339))}}, o)
	w.must(err)
	part := called(ns + "-part")
	part.Labels = map[string]string{"to": ns}
	_, err = w.Client.RbacV1().ClusterRoles().Create(w.ctx, &rbacv1.ClusterRole{ObjectMeta: part, Rules: []rbacv1.PolicyRule{{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"pods"}}}}, o)
	w.must(err)
	_, err = w.Client.RbacV1().ClusterRoles().Create(w.ctx, &rbacv1.ClusterRole{ObjectMeta: called(ns), AggregationRule: &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{{MatchLabels: part.Labels}}}}, o)
	w.must(err)
	_, err = w.Client.AdmissionregistrationV1().ValidatingAdmissionPolicies().Create(w.ctx, &admissionregistrationv1.ValidatingAdmissionPolicy{ObjectMeta: called(ns), Spec: admissionregistrationv1.ValidatingAdmissionPolicySpec{
		MatchConstraints: &admissionregistrationv1.MatchResources{ResourceRules: []admissionregistrationv1.NamedRuleWithOperations{{RuleWithOperations: admissionregistrationv1.RuleWithOperations{
			Operations: []admissionregistrationv1.OperationType{"CREATE"}, Rule: admissionregistrationv1.Rule{APIGroups: []string{"nobody.example"}, APIVersions: []string{"v1"}, Resources: []string{"things"}}}}}},
		Validations: []admissionregistrationv1.Validation{{Expression: "true"}}}}, o)
	w.must(err)
	_, err = w.Client.StoragemigrationV1().StorageVersionMigrations().Create(w.ctx, &migrationv1.StorageVersionMigration{ObjectMeta: called(ns), Spec: migrationv1.StorageVersionMigrationSpec{Resource: metav1.GroupResource{Resource: "configmaps"}}}, o)
	w.must(err)
	_, err = w.Client.CoreV1().Namespaces().Create(w.ctx, &corev1.Namespace{ObjectMeta: called(ns + "-inner")}, o)
	w.must(err)
	w.pod(ns+"-inner", "p", func(*corev1.PodSpec) {})
	_, err = w.Client.CoreV1().ConfigMaps(ns+"-inner").Create(w.ctx, &corev1.ConfigMap{ObjectMeta: called("c")}, o)
	w.must(err)
	request(w, ns)
}

// request asks for a certificate of a client, and allows it.
func request(w *world, name string) {
	w.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	w.must(err)
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: name}}, key)
	w.must(err)
	api := w.Client.CertificatesV1().CertificateSigningRequests()
	csr, err := api.Create(w.ctx, &certificatesv1.CertificateSigningRequest{ObjectMeta: called(name), Spec: certificatesv1.CertificateSigningRequestSpec{
		Request:    pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}),
		SignerName: certificatesv1.KubeAPIServerClientSignerName, Usages: []certificatesv1.KeyUsage{certificatesv1.UsageClientAuth, certificatesv1.UsageDigitalSignature}}}, o)
	w.must(err)
	csr.Status.Conditions = append(csr.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "test", LastUpdateTime: metav1.Now(), LastTransitionTime: metav1.Now()})
	_, err = api.UpdateApproval(w.ctx, name, csr, metav1.UpdateOptions{})
	w.must(err)
}
