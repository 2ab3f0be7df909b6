package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	batchv1 "k8s.io/api/batch/v1"
	batchv1beta1 "k8s.io/api/batch/v1beta1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1beta1 "k8s.io/api/networking/v1beta1"
	rbacv1 "k8s.io/api/rbac/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/celox/celox/test/e2e/machine"
)

// upstreamEtcd is an etcd as an upstream cluster has one: it listens to clients with certificates only, and its data is in a directory.
type upstreamEtcd struct {
	dir, endpoint         string
	caFile, cert, certKey string // for clients
	stop                  func()
}

// startUpstreamEtcd starts etcd on a machine. With CELOX_E2E_ETCD it is that program, of any version; else the library's own.
func startUpstreamEtcd(t *testing.T, m *machine.Machine) *upstreamEtcd {
	t.Helper()
	dir := t.TempDir()
	ca := authority(t, time.Now().Add(-time.Hour))
	e := &upstreamEtcd{dir: filepath.Join(dir, "default.etcd"), endpoint: "https://127.0.0.1:2379"}
	e.caFile, _ = ca.files(t, dir, "ca")
	cert, key := leaf(t, ca, "etcd", net.IPv4(127, 0, 0, 1)).files(t, dir, "server")
	e.cert, e.certKey = leaf(t, ca, "kube-apiserver-etcd-client").files(t, dir, "client")
	if program := os.Getenv("CELOX_E2E_ETCD"); program != "" {
		cmd := m.Command(program, "--name", "cp-1", "--data-dir", e.dir, "--listen-client-urls", e.endpoint, "--advertise-client-urls", e.endpoint,
			"--listen-peer-urls", "http://127.0.0.1:2380", "--initial-advertise-peer-urls", "http://127.0.0.1:2380", "--initial-cluster", "cp-1=http://127.0.0.1:2380",
			"--cert-file", cert, "--key-file", key, "--trusted-ca-file", e.caFile, "--client-cert-auth", "--log-level", "error")
		var said bytes.Buffer
		cmd.Stdout, cmd.Stderr = &said, &said
		if err := m.NS.Start(cmd); err != nil {
			t.Fatal(err)
		}
		e.stop = func() {
			_ = cmd.Process.Signal(syscall.SIGTERM)
			_ = cmd.Wait() // it ends by the signal
			if t.Failed() {
				t.Logf("etcd said:\n%s", said.String())
			}
		}
		return e
	}
	cfg := embed.NewConfig()
	cfg.Name, cfg.Dir, cfg.LogLevel, cfg.LogOutputs = "cp-1", e.dir, "fatal", []string{filepath.Join(dir, "etcd.log")}
	cfg.ClientTLSInfo = transport.TLSInfo{CertFile: cert, KeyFile: key, TrustedCAFile: e.caFile, ClientCertAuth: true}
	client, peer := url.URL{Scheme: "https", Host: "127.0.0.1:2379"}, url.URL{Scheme: "http", Host: "127.0.0.1:2380"}
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	cfg.EnableGRPCGateway = false // it would dial itself from outside of the namespace
	var server *embed.Etcd
	if err := m.NS.Do(func() (err error) {
		server, err = embed.StartEtcd(cfg)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	<-server.Server.ReadyNotify()
	e.stop = server.Close
	return e
}

// client is etcd's own, from within the machine.
func (e *upstreamEtcd) client(t *testing.T, m *machine.Machine) *clientv3.Client {
	t.Helper()
	conf, err := transport.TLSInfo{CertFile: e.cert, KeyFile: e.certKey, TrustedCAFile: e.caFile}.ClientConfig()
	if err != nil {
		t.Fatal(err)
	}
	dial := grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) { return m.NS.Dial(ctx, "tcp", address) })
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{e.endpoint}, TLS: conf, Logger: zap.NewNop(), DialOptions: []grpc.DialOption{dial}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// upstreamObjects are what a cluster keeps, by the keys that kube-apiserver gives them. Some are in versions that it has not written for years.
func upstreamObjects() map[string]runtime.Object {
	made := metav1.NewTime(time.Date(2021, 3, 4, 5, 6, 7, 0, time.UTC))
	meta := func(namespace, name string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID("00000000-0000-4000-8000-" + (name + "-000000000000")[:12]), CreationTimestamp: made, Labels: map[string]string{"from": "upstream"}}
	}
	one := int32(1)
	labels := map[string]string{"app": "web"}
	pod := corev1.PodSpec{
		RestartPolicy: corev1.RestartPolicyAlways, DNSPolicy: corev1.DNSClusterFirst, SchedulerName: "default-scheduler", SecurityContext: &corev1.PodSecurityContext{},
		Containers: []corev1.Container{{Name: "c", Image: busybox, Command: []string{"sleep", "3600"}, ImagePullPolicy: corev1.PullIfNotPresent,
			TerminationMessagePath: "/dev/termination-log", TerminationMessagePolicy: corev1.TerminationMessageReadFile}},
	}
	job := *pod.DeepCopy()
	job.RestartPolicy = corev1.RestartPolicyNever
	bound := *pod.DeepCopy()
	bound.NodeName = "old-node"
	rule := []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"get", "list"}}}
	anna := []rbacv1.Subject{{Kind: "User", APIGroup: "rbac.authorization.k8s.io", Name: "anna"}}
	return map[string]runtime.Object{
		"/registry/namespaces/prod": &corev1.Namespace{ObjectMeta: meta("", "prod"),
			Spec: corev1.NamespaceSpec{Finalizers: []corev1.FinalizerName{corev1.FinalizerKubernetes}}, Status: corev1.NamespaceStatus{Phase: corev1.NamespaceActive}},
		"/registry/minions/old-node":             &corev1.Node{ObjectMeta: meta("", "old-node"), Status: corev1.NodeStatus{NodeInfo: corev1.NodeSystemInfo{KubeletVersion: "v1.36.1"}}},
		"/registry/serviceaccounts/prod/default": &corev1.ServiceAccount{ObjectMeta: meta("prod", "default")},
		"/registry/serviceaccounts/prod/robot":   &corev1.ServiceAccount{ObjectMeta: meta("prod", "robot")},
		"/registry/secrets/prod/key":             &corev1.Secret{ObjectMeta: meta("prod", "key"), Type: corev1.SecretTypeOpaque, Data: map[string][]byte{"token": []byte("hush")}},
		"/registry/configmaps/prod/settings":     &corev1.ConfigMap{ObjectMeta: meta("prod", "settings"), Data: map[string]string{"colour": "green"}},
		"/registry/pods/prod/bare":               &corev1.Pod{ObjectMeta: meta("prod", "bare"), Spec: bound, Status: corev1.PodStatus{Phase: corev1.PodRunning}},
		"/registry/services/specs/prod/web": &corev1.Service{ObjectMeta: meta("prod", "web"), Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, ClusterIP: "10.96.7.7", Selector: labels, SessionAffinity: corev1.ServiceAffinityNone,
			Ports: []corev1.ServicePort{{Port: 80, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromInt32(8080)}}}},
		"/registry/services/specs/prod/by-hand": &corev1.Service{ObjectMeta: meta("prod", "by-hand"), Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, ClusterIP: corev1.ClusterIPNone, SessionAffinity: corev1.ServiceAffinityNone, Ports: []corev1.ServicePort{{Port: 5432, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromInt32(5432)}}}},
		"/registry/services/endpoints/prod/by-hand": &corev1.Endpoints{ObjectMeta: meta("prod", "by-hand"), //nolint:staticcheck // deprecated, and stored
			Subsets: []corev1.EndpointSubset{{Addresses: []corev1.EndpointAddress{{IP: "192.0.2.9"}}, Ports: []corev1.EndpointPort{{Port: 5432, Protocol: corev1.ProtocolTCP}}}}}, //nolint:staticcheck // as above
		"/registry/deployments/prod/web": &appsv1.Deployment{ObjectMeta: meta("prod", "web"), Spec: appsv1.DeploymentSpec{
			Replicas: &one, Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: pod}}},
		"/registry/roles/prod/reader":         &rbacv1.Role{ObjectMeta: meta("prod", "reader"), Rules: rule},
		"/registry/rolebindings/prod/anna":    &rbacv1.RoleBinding{ObjectMeta: meta("prod", "anna"), Subjects: anna, RoleRef: rbacv1.RoleRef{APIGroup: "rbac.authorization.k8s.io", Kind: "Role", Name: "reader"}},
		"/registry/clusterroles/looks":        &rbacv1.ClusterRole{ObjectMeta: meta("", "looks"), Rules: rule},
		"/registry/clusterrolebindings/looks": &rbacv1.ClusterRoleBinding{ObjectMeta: meta("", "looks"), Subjects: anna, RoleRef: rbacv1.RoleRef{APIGroup: "rbac.authorization.k8s.io", Kind: "ClusterRole", Name: "looks"}},
		"/registry/leases/prod/lease":         &coordinationv1.Lease{ObjectMeta: meta("prod", "lease"), Spec: coordinationv1.LeaseSpec{HolderIdentity: new("somebody")}},
		"/registry/priorityclasses/urgent":    &schedulingv1.PriorityClass{ObjectMeta: meta("", "urgent"), Value: 1000},
		"/registry/ranges/serviceips":         &corev1.RangeAllocation{Range: "10.96.0.0/16", Data: []byte{1, 2, 3}},
		"/registry/masterleases/192.0.2.1":    &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Generation: 7}, Subsets: []corev1.EndpointSubset{{Addresses: []corev1.EndpointAddress{{IP: "192.0.2.1"}}}}}, //nolint:staticcheck // as above
		"/registry/horizontalpodautoscalers/prod/web": &autoscalingv1.HorizontalPodAutoscaler{ObjectMeta: meta("prod", "web"), Spec: autoscalingv1.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: autoscalingv1.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "web"}, MinReplicas: &one, MaxReplicas: 3, TargetCPUUtilizationPercentage: new(int32(70))}},
		"/registry/cronjobs/prod/nightly": &batchv1beta1.CronJob{ObjectMeta: meta("prod", "nightly"), Spec: batchv1beta1.CronJobSpec{Schedule: "0 3 * * *", Suspend: new(true),
			ConcurrencyPolicy: batchv1beta1.AllowConcurrent, JobTemplate: batchv1beta1.JobTemplateSpec{Spec: batchv1.JobSpec{Template: corev1.PodTemplateSpec{Spec: job}}}}},
		"/registry/ingress/prod/site": &networkingv1beta1.Ingress{ObjectMeta: meta("prod", "site"), Spec: networkingv1beta1.IngressSpec{
			Backend: &networkingv1beta1.IngressBackend{ServiceName: "web", ServicePort: intstr.FromInt32(80)}}},
		"/registry/events/prod/web.1": &corev1.Event{ObjectMeta: meta("prod", "web.1"), Type: "Normal", Reason: "ScaledUp", Message: "long ago", Count: 1, LastTimestamp: made,
			InvolvedObject: corev1.ObjectReference{Kind: "Deployment", Namespace: "prod", Name: "web"}},
	}
}

// upstreamJSON are kinds that kube-apiserver stores as JSON, and a custom resource.
var upstreamJSON = map[string]string{
	"/registry/apiregistration.k8s.io/apiservices/v1beta1.metrics.example.com": `{"kind":"APIService","apiVersion":"apiregistration.k8s.io/v1","metadata":{"name":"v1beta1.metrics.example.com",` +
		`"uid":"00000000-0000-4000-8000-000000000101","creationTimestamp":"2021-03-04T05:06:07Z"},"spec":{"service":{"namespace":"prod","name":"web","port":443},"group":"metrics.example.com",` +
		`"version":"v1beta1","insecureSkipTLSVerify":true,"groupPriorityMinimum":100,"versionPriority":100},"status":{}}`,
	"/registry/apiextensions.k8s.io/customresourcedefinitions/wombats.example.com": `{"kind":"CustomResourceDefinition","apiVersion":"apiextensions.k8s.io/v1","metadata":{"name":"wombats.example.com",` +
		`"uid":"00000000-0000-4000-8000-000000000102","creationTimestamp":"2021-03-04T05:06:07Z"},"spec":{"group":"example.com","names":{"plural":"wombats","singular":"wombat","kind":"Wombat","listKind":"WombatList"},` +
		`"scope":"Namespaced","versions":[{"name":"v1","served":true,"storage":true,"schema":{"openAPIV3Schema":{"type":"object","x-kubernetes-preserve-unknown-fields":true}}}],"conversion":{"strategy":"None"}},` +
		`"status":{"conditions":[{"type":"NamesAccepted","status":"True","lastTransitionTime":"2021-03-04T05:06:07Z","reason":"NoConflicts","message":"no conflicts found"},` +
		`{"type":"Established","status":"True","lastTransitionTime":"2021-03-04T05:06:07Z","reason":"InitialNamesAccepted","message":"the initial names have been accepted"}],` +
		`"acceptedNames":{"plural":"wombats","singular":"wombat","kind":"Wombat","listKind":"WombatList"},"storedVersions":["v1"]}}`,
	"/registry/example.com/wombats/prod/burrow": `{"apiVersion":"example.com/v1","kind":"Wombat","metadata":{"name":"burrow","namespace":"prod","uid":"00000000-0000-4000-8000-000000000103",` +
		`"creationTimestamp":"2021-03-04T05:06:07Z","generation":1},"spec":{"depth":3}}`,
	"compact_rev_key": "2", // where kube-apiservers agree on who compacts
}

// fillAsUpstream writes those objects with apimachinery's serializer, which is what kube-apiserver does.
func fillAsUpstream(ctx context.Context, t *testing.T, etcd *clientv3.Client) {
	t.Helper()
	encoder := protobuf.NewSerializer(scheme.Scheme, scheme.Scheme)
	for key, o := range upstreamObjects() {
		kinds, _, err := scheme.Scheme.ObjectKinds(o)
		if err != nil {
			t.Fatal(err)
		}
		o.GetObjectKind().SetGroupVersionKind(kinds[0])
		var value bytes.Buffer
		if err := encoder.Encode(o, &value); err != nil || !bytes.HasPrefix(value.Bytes(), []byte("k8s\x00")) {
			t.Fatalf("%s: %q, %v", key, value.Bytes(), err)
		}
		var options []clientv3.OpOption
		if strings.HasPrefix(key, "/registry/events/") {
			lease, err := etcd.Grant(ctx, 3600)
			if err != nil {
				t.Fatal(err)
			}
			options = append(options, clientv3.WithLease(lease.ID))
		}
		if _, err := etcd.Put(ctx, key, value.String(), options...); err != nil {
			t.Fatal(err)
		}
	}
	for key, value := range upstreamJSON {
		if _, err := etcd.Put(ctx, key, value); err != nil {
			t.Fatal(err)
		}
	}
}

// looksAtUpstream sees with kubectl that everything is there and reads as it was meant.
func looksAtUpstream(t *testing.T, u *user) {
	t.Helper()
	const age = `5y\d*d?`
	like(t, u.kubectl("get", "pod", "bare"), `NAME READY STATUS RESTARTS AGE`, `bare 0/1 Running 0 `+age)
	like(t, u.kubectl("get", "cm", "settings", "-o", "jsonpath={.data} {.metadata.creationTimestamp} {.metadata.uid}"), `\{"colour":"green"\} 2021-03-04T05:06:07Z 00000000-0000-4000-8000-settings-000`)
	like(t, u.kubectl("get", "secret", "key", "-o", "jsonpath={.data.token}"), `aHVzaA==`)
	like(t, u.kubectl("get", "svc", "web"), `NAME TYPE CLUSTER-IP EXTERNAL-IP PORT\(S\) AGE`, `web ClusterIP 10\.96\.7\.7 <none> 80/TCP `+age)
	like(t, u.kubectl("get", "endpoints", "by-hand"), `NAME ENDPOINTS AGE`, `by-hand 192\.0\.2\.9:5432 `+age)
	like(t, u.kubectl("get", "deployment", "web", "-o", "jsonpath={.spec.replicas} {.spec.strategy.type} {.spec.template.spec.containers[0].image}"), `1 RollingUpdate busybox:1`)
	like(t, u.kubectl("get", "sa", "robot", "-o", "name"), `serviceaccount/robot`)
	like(t, u.kubectl("get", "node", "old-node", "-o", "jsonpath={.status.nodeInfo.kubeletVersion}"), `v1\.36\.1`)
	like(t, u.kubectl("get", "clusterrole,clusterrolebinding", "-l", "from=upstream", "-o", "name"), `clusterrole.rbac.authorization.k8s.io/looks`, `clusterrolebinding.rbac.authorization.k8s.io/looks`)
	like(t, u.kubectl("auth", "can-i", "list", "pods", "--as", "anna"), `yes`)
	like(t, u.kubectl("get", "lease", "lease"), `NAME HOLDER AGE`, `lease somebody `+age)
	like(t, u.kubectl("get", "priorityclass", "urgent", "-o", "jsonpath={.value} {.preemptionPolicy}"), `1000 PreemptLowerPriority`)
	like(t, u.kubectl("get", "hpa.v2.autoscaling", "web", "-o", "jsonpath={.apiVersion} {.spec.metrics[0].resource.target.averageUtilization}"), `autoscaling/v2 70`)
	like(t, u.kubectl("get", "cronjob", "nightly", "-o", "jsonpath={.apiVersion} {.spec.schedule} {.spec.suspend}"), `batch/v1 0 3 \* \* \* true`)
	like(t, u.kubectl("get", "ingress", "site", "-o", "jsonpath={.apiVersion} {.spec.defaultBackend.service}"), `networking.k8s.io/v1 \{"name":"web","port":\{"number":80\}\}`)
	contains(t, u.kubectl("get", "events"), `5y\S* Normal ScaledUp deployment/web long ago`)
	like(t, u.kubectl("get", "apiservice", "v1beta1.metrics.example.com", "-o", "jsonpath={.spec.service.name} {.spec.groupPriorityMinimum}"), `web 100`)
	like(t, u.kubectl("get", "crd", "wombats.example.com", "-o", "jsonpath={.spec.names.kind} {.status.storedVersions}"), `Wombat \["v1"\]`)
}

// TestUpstreamData opens what an upstream cluster has left: its etcd from outside, with certificates, and then its data directory.
func TestUpstreamData(t *testing.T) {
	t.Parallel()
	m := machine.ForTest(t)
	e := startUpstreamEtcd(t, m)
	running := true
	stop := func() {
		if running {
			running = false
			e.stop()
		}
	}
	defer stop()
	ctx := eventually(t)
	etcd := e.client(t, m)
	fillAsUpstream(ctx, t, etcd)
	if err := etcd.Close(); err != nil && !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	u := &user{t: t, m: m, ns: "prod", command: []string{mustBinary(t), "kubectl"}}
	services := []string{"--service-cidr", "10.96.0.0/16"} // as it was

	startOn(t, m, append(services, "--disable-node", "--etcd-servers", e.endpoint, "--etcd-cafile", e.caFile, "--etcd-certfile", e.cert, "--etcd-keyfile", e.certKey)...)
	looksAtUpstream(t, u)
	like(t, u.kubectl("create", "configmap", "by-celox", "--from-literal=a=1"), `configmap/by-celox created`)
	if err := m.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	stop()

	// The directory goes where the embedded etcd has its own.
	if out, err := exec.Command("cp", "-a", e.dir, filepath.Join(m.DataDir, "etcd")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	giveBusybox(t, m)
	c := startOn(t, m, services...)
	looksAtUpstream(t, u)
	like(t, u.kubectl("get", "cm", "by-celox", "-o", "jsonpath={.data.a}"), `1`)

	// Everything can be changed, and what runs things goes on with it: the deployment had no pods yet.
	waitReady(t, c)
	u.kubectl("rollout", "status", "deployment/web", "--timeout", patience.String())
	u.kubectl("scale", "deployment/web", "--replicas=2")
	u.await("deployment/web", "jsonpath={.status.readyReplicas}=2")
	kinds := "cm,secret,sa,svc,endpoints,deployment,role,rolebinding,lease,hpa,cronjob,ingress,clusterrole,clusterrolebinding,priorityclass,node"
	u.kubectl("label", kinds, "from=celox", "--overwrite", "-l", "from=upstream")
	changed := u.kubectl("get", kinds, "-l", "from=celox", "-o", "name")
	for key := range upstreamObjects() {
		kind, name, _ := strings.Cut(strings.TrimPrefix(key, "/registry/"), "/")
		name = name[strings.LastIndexByte(name, '/')+1:]
		switch kind {
		case "namespaces", "pods", "events", "ranges", "masterleases": // not among them
		default:
			has(t, changed, "/"+name+"\n")
		}
	}
	u.kubectl("label", "crd/wombats.example.com", "apiservice/v1beta1.metrics.example.com", "from=celox")
	u.kubectl("delete", "hpa,cronjob,ingress,endpoints", "--all")
	u.kubectl("delete", "pod", "bare", "--force", "--grace-period=0")

	// What is written now is in the newest version; what Celox does not know, it left alone.
	own, err := clientv3.New(clientv3.Config{Endpoints: []string{"unix://" + filepath.Join(m.DataDir, "run", "etcd.sock")}, DialTimeout: patience, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = own.Close() }() // nothing is under way
	for _, key := range []string{"compact_rev_key", "/registry/ranges/serviceips", "/registry/masterleases/192.0.2.1", "/registry/example.com/wombats/prod/burrow"} {
		if got, err := own.Get(ctx, key); err != nil || len(got.Kvs) != 1 || got.Kvs[0].Version != 1 {
			t.Errorf("%s: %v, %v", key, got, err)
		}
	}
	got, err := own.Get(ctx, "/registry/apiregistration.k8s.io/apiservices/v1beta1.metrics.example.com")
	var stored struct{ APIVersion, Kind string }
	if err != nil || len(got.Kvs) != 1 || json.Unmarshal(got.Kvs[0].Value, &stored) != nil || stored.APIVersion != "apiregistration.k8s.io/v1" || stored.Kind != "APIService" {
		t.Errorf("an APIService is stored as %v, %v", got, err)
	}
	u.kubectl("delete", "apiservice", "v1beta1.metrics.example.com") // nobody answers for it, and a namespace cannot be emptied of what is unknown
	u.kubectl("delete", "namespace", "prod", "--timeout", patience.String())
}

// TestSnapshot goes back to a snapshot of the etcd inside with etcd's own tool, the way that a member of an upstream cluster is restored.
func TestSnapshot(t *testing.T) {
	t.Parallel()
	m := machine.ForTest(t)
	ctx := eventually(t)
	startOn(t, m, "--disable-node")
	u := &user{t: t, m: m, ns: "default", command: []string{mustBinary(t), "kubectl"}}
	u.kubectl("create", "configmap", "kept", "--from-literal=a=1")
	etcd, err := clientv3.New(clientv3.Config{Endpoints: []string{"unix://" + filepath.Join(m.DataDir, "run", "etcd.sock")}, DialTimeout: patience, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	db := filepath.Join(t.TempDir(), "snapshot.db")
	in, err := etcd.Snapshot(ctx)
	if err != nil {
		t.Fatal(err)
	}
	out, err := os.Create(db)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(out, in)
	if err := errors.Join(err, out.Close(), in.Close(), etcd.Close()); err != nil {
		t.Fatal(err)
	}
	u.kubectl("create", "configmap", "later", "--from-literal=a=1")
	u.kubectl("delete", "configmap", "kept")
	if err := m.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(m.DataDir, "etcd")
	if err := os.RemoveAll(data); err != nil {
		t.Fatal(err)
	}
	if said, err := exec.CommandContext(ctx, guest(t, "etcdutl"), "snapshot", "restore", db, "--data-dir", data).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	startOn(t, m, "--disable-node")
	like(t, u.kubectl("get", "configmap", "kept", "-o", "name"), `configmap/kept`)
	like(t, u.kubectl("create", "configmap", "later", "--from-literal=a=2"), `configmap/later created`)
}
