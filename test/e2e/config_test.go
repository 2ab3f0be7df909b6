package e2e

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/storage/mvcc"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/celox/celox/test/e2e/machine"
)

// refusedStart runs a command that has to end by itself with one line that says what is wrong, and returns what it said. A command line that cannot be understood
// has two more: how the command is used, and an example.
func refusedStart(t *testing.T, m *machine.Machine, adjust func(*exec.Cmd), args ...string) string {
	t.Helper()
	bin, err := machine.Binary()
	if err != nil {
		t.Fatal(err)
	}
	cmd := m.Command(bin, args...)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if adjust != nil {
		adjust(cmd)
	}
	if err := m.NS.Start(cmd); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	err = cmd.Wait()
	said := errOut.String()
	if err == nil || cmd.ProcessState.ExitCode() <= 0 {
		t.Fatalf("celox %s: %s\n%s%s", strings.Join(args, " "), cmd.ProcessState, out.String(), said)
	}
	lines := strings.Split(strings.TrimSuffix(said, "\n"), "\n")
	help := len(lines) == 3 && strings.HasPrefix(lines[1], "  usage:   celox ") && strings.HasPrefix(lines[2], "  example: celox ")
	if !strings.HasPrefix(said, "celox: ") || len(lines) != 1 && !help {
		t.Errorf("celox %s: want one line that begins with \"celox: \", with at most usage and example below, got\n%s", strings.Join(args, " "), said)
	}
	return said
}

func TestBadStarts(t *testing.T) {
	t.Parallel()
	m := machine.ForTest(t)
	dir := t.TempDir()
	config := func(name, text string) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	taken, err := m.NS.Listen("tcp", "127.0.0.1:6443")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }() // it never accepts
	openDir, err := os.MkdirTemp("", "celox-nobody-")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(openDir) }()
	if err := os.Chmod(openDir, 0o777); err != nil {
		t.Fatal(err)
	}
	nobody := func(cmd *exec.Cmd) {
		cmd.Dir = openDir
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
	file := config("a-file", "")
	for _, tt := range []struct {
		name   string
		adjust func(*exec.Cmd)
		args   []string
		want   []string
	}{
		{"not root", nobody, []string{"server", "--data-dir", filepath.Join(openDir, "data")}, []string{"needs root: run as root"}},
		{"nobody's directory", nobody, []string{"server", "--disable-node", "--data-dir", "/proc/celox"}, []string{"data directory"}},
		{"port taken", nil, []string{"server", "--bind-address", "127.0.0.1"}, []string{"port 6443 is taken", "--https-port"}},
		{"foreign address", nil, []string{"server", "--bind-address", "192.0.2.1"}, []string{"192.0.2.1 is no address of this machine", "--bind-address"}},
		{"data directory is a file", nil, []string{"server", "--data-dir", file}, []string{"data directory", file}},
		{"somebody's directory", nil, []string{"server", "--data-dir", dir}, []string{dir + " holds other things", "--data-dir"}},
		{"somebody's directory for images", nil, []string{"image", "list", "--data-dir", dir}, []string{dir + " holds other things"}},
		{"broken config", nil, []string{"server", "--config", config("broken.yaml", "log-level: info\nhttps-port: [\n")}, []string{"broken.yaml", "line 2"}},
		{"unknown key", nil, []string{"server", "--config", config("unknown.yaml", "log-level: info\nhttp-port: 1\n")}, []string{"unknown.yaml: line 2", `unknown key "http-port"`, `did you mean "https-port"?`}},
		{"bad value", nil, []string{"server", "--config", config("value.yaml", "\nhttps-port: many\n")}, []string{"value.yaml: line 2", "https-port"}},
		{"no config", nil, []string{"server", "--config", filepath.Join(dir, "none.yaml")}, []string{"none.yaml", "no such file"}},
		{"bad variable", func(cmd *exec.Cmd) { cmd.Env = append(cmd.Env, "CELOX_HTTPS_PORT=many") }, []string{"server"}, []string{"CELOX_HTTPS_PORT=many"}},
		{"unknown flag", nil, []string{"server", "--no-such-flag"}, []string{"--no-such-flag"}},
		{"bad flag value", nil, []string{"server", "--service-cidr", "10.0.0.1/8"}, []string{"--service-cidr", "did you mean 10.0.0.0/8?"}},
		{"stray argument", nil, []string{"server", "now"}, []string{"now"}},
		{"no etcd there", nil, []string{"server", "--disable-node", "--https-port", "7443", "--etcd-servers", "http://127.0.0.1:2"}, []string{"etcd", "127.0.0.1:2"}},
		{"no etcd CA", nil, []string{"server", "--disable-node", "--https-port", "7443", "--etcd-servers", "https://127.0.0.1:2", "--etcd-cafile", "/none"}, []string{"--etcd-cafile", "/none"}},
		{"no runtime there", nil, []string{"server", "--https-port", "7443", "--container-runtime-endpoint", "unix:///none.sock"}, []string{"--container-runtime-endpoint"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			said := refusedStart(t, m, tt.adjust, tt.args...)
			has(t, said, tt.want...)
		})
	}
}

func TestDirectoryInUse(t *testing.T) {
	t.Parallel()
	m, _ := startMachine(t, controlPlaneOnly...)
	said := refusedStart(t, m, nil, "server", "--disable-node", "--https-port", "7443", "--data-dir", m.DataDir)
	has(t, said, "data directory "+m.DataDir+" is in use by a running celox (pid "+strconv.Itoa(m.Pid())+")", "--data-dir")
	// The one that runs does not mind.
	if _, err := m.Kubectl(nil, "get", "namespaces"); err != nil {
		t.Error(err)
	}
}

// TestWrongCA gives kubectl a kubeconfig that trusts another authority than the cluster's.
func TestWrongCA(t *testing.T) {
	t.Parallel()
	u := newUser(t)
	config, err := clientcmd.LoadFromFile(u.m.Kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	config.Clusters[config.Contexts[config.CurrentContext].Cluster].CertificateAuthorityData = authority(t, time.Now().Add(-time.Hour)).certPEM
	file := filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*config, file); err != nil {
		t.Fatal(err)
	}
	has(t, u.refused("get", "pods", "--kubeconfig", file), "certificate signed by unknown authority")
}

func TestBrokenFiles(t *testing.T) {
	t.Parallel()
	m, _ := startMachine(t, controlPlaneOnly...)
	if err := m.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, file string
		data       []byte
		want       []string
	}{
		{"certificate", "pki/ca.crt", []byte("rubbish"), []string{"ca.crt", "damaged", "restore"}},
		{"key", "pki/ca.key", []byte("-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\n"), []string{"ca.key", "damaged", "restore"}},
		{"another CA's certificate", "pki/ca.crt", authority(t, time.Now()).certPEM, []string{"ca.crt", "does not belong to the key"}},
		{"database", "etcd/member/snap/db", bytes.Repeat([]byte("rubbish"), 10000), []string{"etcd/member/snap/db"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			file := filepath.Join(m.DataDir, tt.file)
			good, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, tt.data, 0o600); err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := os.WriteFile(file, good, 0o600); err != nil {
					t.Error(err)
				}
			}()
			said := refusedStart(t, m, nil, "server", "--disable-node", "--data-dir", m.DataDir)
			has(t, said, tt.want...)
		})
	}
	startOn(t, m, controlPlaneOnly...)
}

// TestClockIsOff gives the server an authority that is not valid yet, as if the clock had been set back.
func TestClockIsOff(t *testing.T) {
	t.Parallel()
	m := machine.ForTest(t)
	for _, tt := range []struct {
		name string
		from time.Time
		want string
	}{
		{"behind", time.Now().Add(24 * time.Hour), "set the clock"},
		{"ahead", time.Now().Add(-20 * 365 * 24 * time.Hour), "expired"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := filepath.Join(m.DataDir, tt.name)
			ca := authority(t, tt.from)
			if err := os.MkdirAll(filepath.Join(dir, "pki"), 0o700); err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := os.RemoveAll(m.DataDir); err != nil {
					t.Error(err)
				}
			}()
			for name, data := range map[string][]byte{"ca.crt": ca.certPEM, "ca.key": ca.keyPEM} {
				if err := os.WriteFile(filepath.Join(dir, "pki", name), data, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			said := refusedStart(t, m, nil, "server", "--disable-node", "--data-dir", dir)
			has(t, said, tt.want, "clock", "ca.crt")
		})
	}
}

// certificate is one with its key, both also as PEM.
type certificate struct {
	cert            *x509.Certificate
	key             *ecdsa.PrivateKey
	certPEM, keyPEM []byte
}

// authority makes a CA that is valid for ten years from a time on.
func authority(t *testing.T, from time.Time) certificate {
	t.Helper()
	return issue(t, nil, &x509.Certificate{
		Subject: pkix.Name{CommonName: "some-ca"}, NotBefore: from, NotAfter: from.Add(10 * 365 * 24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	})
}

// leaf makes a certificate for both ends of a connection on loopback.
func leaf(t *testing.T, ca certificate, name string, ips ...net.IP) certificate {
	t.Helper()
	return issue(t, &ca, &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: ips,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	})
}

func issue(t *testing.T, ca *certificate, tmpl *x509.Certificate) certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if tmpl.SerialNumber, err = rand.Int(rand.Reader, big.NewInt(1<<62)); err != nil {
		t.Fatal(err)
	}
	parent, signer := tmpl, key
	if ca != nil {
		parent, signer = ca.cert, ca.key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return certificate{
		cert: cert, key: key,
		certPEM: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		keyPEM:  pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER}),
	}
}

// files writes a certificate and its key, and returns their names.
func (c certificate) files(t *testing.T, dir, name string) (cert, key string) {
	t.Helper()
	cert, key = filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key")
	for file, data := range map[string][]byte{cert: c.certPEM, key: c.keyPEM} {
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

// TestConfigSources sets one key by flag, variable and file each, and all three for another.
func TestConfigSources(t *testing.T) {
	t.Parallel()
	m := machine.ForTest(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "celox.yaml")
	kubeconfig := filepath.Join(dir, "my.kubeconfig")
	if err := os.WriteFile(file, []byte("https-port: 7001\nlog-level: error\nbind-address: 127.0.0.1\ntls-san:\n- celox.example\n- 192.0.2.7\ndisable-node: true\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	bin, err := machine.Binary()
	if err != nil {
		t.Fatal(err)
	}
	cmd := m.Command(bin, "server", "--https-port", "7003")
	cmd.Env = append(cmd.Env, "CELOX_CONFIG="+file, "CELOX_HTTPS_PORT=7002", "CELOX_LOG_LEVEL=info", "CELOX_WRITE_KUBECONFIG="+kubeconfig)
	u := &user{t: t, m: m}
	if got := u.background(cmd, `^kubeconfig is (.*)$`); got != kubeconfig {
		t.Errorf("the kubeconfig is said to be %s, want %s", got, kubeconfig)
	}
	for _, path := range []string{kubeconfig, m.Kubeconfig()} {
		c, err := clientcmd.LoadFromFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := c.Clusters[c.Contexts[c.CurrentContext].Cluster].Server; got != "https://127.0.0.1:7003" {
			t.Errorf("%s is for %s", path, got)
		}
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v: it holds a key", path, info.Mode(), err)
		}
	}
	out, err := m.Run(nil, bin, "kubectl", "--kubeconfig", kubeconfig, "get", "nodes")
	if err != nil || out != "" {
		t.Errorf("nodes of a control plane: %q, %v", out, err)
	}
	for _, name := range []string{"celox.example", "192.0.2.7"} {
		c, err := m.RESTConfig()
		if err != nil {
			t.Fatal(err)
		}
		c.ServerName = name
		client, err := kubernetes.NewForConfig(c)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := client.Discovery().ServerVersion(); err != nil {
			t.Errorf("the certificate is not good for %s: %v", name, err)
		}
	}
}

// TestExternalEtcd runs a control plane on an etcd in another process's hands, over TLS with certificates on both sides.
func TestExternalEtcd(t *testing.T) {
	t.Parallel()
	m := machine.ForTest(t)
	dir := t.TempDir()
	ca := authority(t, time.Now().Add(-time.Hour))
	caFile, _ := ca.files(t, dir, "ca")
	server := leaf(t, ca, "etcd", net.IPv4(127, 0, 0, 1))
	cert, key := server.files(t, dir, "server")
	client := leaf(t, ca, "root")
	clientCert, clientKey := client.files(t, dir, "client")

	cfg := embed.NewConfig()
	cfg.Dir, cfg.LogLevel, cfg.LogOutputs = filepath.Join(dir, "etcd"), "fatal", []string{filepath.Join(dir, "etcd.log")}
	cfg.ClientTLSInfo.CertFile, cfg.ClientTLSInfo.KeyFile, cfg.ClientTLSInfo.TrustedCAFile, cfg.ClientTLSInfo.ClientCertAuth = cert, key, caFile, true
	endpoint, peer := url.URL{Scheme: "https", Host: "127.0.0.1:2379"}, url.URL{Scheme: "http", Host: "127.0.0.1:2380"}
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{endpoint}, []url.URL{endpoint}
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	cfg.EnableGRPCGateway = false // it would dial itself from outside of the namespace
	var etcd *embed.Etcd
	if err := m.NS.Do(func() error {
		var err error
		etcd, err = embed.StartEtcd(cfg)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer etcd.Close()
	<-etcd.Server.ReadyNotify()

	args := []string{"--disable-node", "--etcd-servers", endpoint.String(), "--etcd-cafile", caFile, "--etcd-certfile", clientCert, "--etcd-keyfile", clientKey}
	c := startOn(t, m, args...)
	ctx := t.Context()
	if _, err := c.CoreV1().ConfigMaps("default").Create(ctx, bigMap("here", 1), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	got, err := etcd.Server.KV().Range(ctx, []byte("/registry/configmaps/default/here"), nil, mvcc.RangeOptions{})
	if err != nil || len(got.KVs) != 1 {
		t.Fatalf("the key in the external etcd: %v, %v", got, err)
	}
	if _, err := os.Stat(filepath.Join(m.DataDir, "etcd")); err == nil {
		t.Error("there is an embedded etcd as well")
	}
	// Several servers may have an etcd, so that this one needs leases to lead; it gives them up when it is told to end, and the next one
	// leads at once.
	leads := func() (holders [2]string) {
		ctx := eventually(t)
		for i, name := range []string{"kube-controller-manager", "kube-scheduler"} {
			for holders[i] == "" {
				l, err := c.CoordinationV1().Leases("kube-system").Get(ctx, name, metav1.GetOptions{})
				if err != nil && !apierrors.IsNotFound(err) {
					t.Fatal(err)
				}
				if err == nil && l.Spec.HolderIdentity != nil {
					holders[i] = *l.Spec.HolderIdentity
				}
				time.Sleep(50 * time.Millisecond)
			}
		}
		return holders
	}
	holders := leads()
	if err := m.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for i, name := range []string{"kube-controller-manager", "kube-scheduler"} {
		got, err := etcd.Server.KV().Range(ctx, []byte("/registry/leases/kube-system/"+name), nil, mvcc.RangeOptions{})
		if err != nil || len(got.KVs) != 1 || bytes.Contains(got.KVs[0].Value, []byte(holders[i])) {
			t.Errorf("the server has ended, and %s is still its lease: %v, %v", name, got, err)
		}
	}
	c = startOn(t, m, args...)
	leads()
	if err := m.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	c = startOn(t, m, args...)
	if _, err := c.CoreV1().ConfigMaps("default").Get(ctx, "here", metav1.GetOptions{}); err != nil {
		t.Error(err)
	}
	if err := m.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}

	// Without a certificate etcd does not let anybody in; without the CA nobody trusts etcd.
	said := refusedStart(t, m, nil, "server", "--disable-node", "--etcd-servers", endpoint.String(), "--etcd-cafile", caFile)
	has(t, said, "etcd", "certificate")
	other, _ := authority(t, time.Now().Add(-time.Hour)).files(t, dir, "other")
	said = refusedStart(t, m, nil, "server", "--disable-node", "--etcd-servers", endpoint.String(), "--etcd-cafile", other, "--etcd-certfile", clientCert, "--etcd-keyfile", clientKey)
	has(t, said, "etcd", "certificate signed by unknown authority")
}

// TestEtcdLayout looks into the embedded etcd as etcdctl does, and decodes what is there with upstream's own decoder.
func TestEtcdLayout(t *testing.T) {
	t.Parallel()
	u := newUser(t)
	u.pod("x", "trap 'exit 0' TERM; while true; do sleep 1; done")
	u.kubectl("create", "service", "clusterip", "x", "--tcp", "80")
	u.kubectl("create", "deployment", "x", "--image", busybox, "--replicas", "0")
	u.kubectl("create", "role", "x", "--verb", "get", "--resource", "pods")
	nodes, err := u.client().CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	if err != nil || len(nodes.Items) != 1 {
		t.Fatal(nodes, err)
	}
	node := nodes.Items[0].Name
	etcd, err := clientv3.New(clientv3.Config{Endpoints: []string{"unix://" + filepath.Join(u.m.DataDir, "run", "etcd.sock")}, DialTimeout: patience})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = etcd.Close() }() // nothing is under way
	decoder := protobuf.NewSerializer(scheme.Scheme, scheme.Scheme)
	for key, into := range map[string]metav1.Object{
		"/registry/pods/" + u.ns + "/x":                      &corev1.Pod{},
		"/registry/services/specs/" + u.ns + "/x":            &corev1.Service{},
		"/registry/services/specs/default/kubernetes":        &corev1.Service{},
		"/registry/services/endpoints/default/kubernetes":    &corev1.Endpoints{}, //nolint:staticcheck // deprecated, and stored
		"/registry/deployments/" + u.ns + "/x":               &appsv1.Deployment{},
		"/registry/minions/" + node:                          &corev1.Node{},
		"/registry/namespaces/" + u.ns:                       &corev1.Namespace{},
		"/registry/serviceaccounts/" + u.ns + "/default":     &corev1.ServiceAccount{},
		"/registry/configmaps/" + u.ns + "/kube-root-ca.crt": &corev1.ConfigMap{},
	} {
		got, err := etcd.Get(t.Context(), key)
		if err != nil || len(got.Kvs) != 1 {
			t.Errorf("%s: %v, %v", key, got, err)
			continue
		}
		object, gvk, err := decoder.Decode(got.Kvs[0].Value, nil, nil)
		if err != nil {
			t.Errorf("%s: %v", key, err)
			continue
		}
		meta, ok := object.(metav1.Object)
		if !ok || meta.GetName() != key[strings.LastIndexByte(key, '/')+1:] || meta.GetUID() == "" || meta.GetResourceVersion() != "" {
			t.Errorf("%s holds a %s: %+v", key, gvk, object)
		}
		if want, _, _ := scheme.Scheme.ObjectKinds(into.(runtime.Object)); len(want) == 0 || want[0] != *gvk {
			t.Errorf("%s holds a %s, want %v", key, gvk, want)
		}
	}
	// Everything is below /registry, and there is nothing that upstream would not know.
	all, err := etcd.Get(t.Context(), "", clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		t.Fatal(err)
	}
	for _, kv := range all.Kvs {
		if !strings.HasPrefix(string(kv.Key), "/registry/") {
			t.Errorf("key %q", kv.Key)
		}
	}
	// What etcdctl writes is what the API shows: the store follows etcd and nothing else.
	got, err := etcd.Get(t.Context(), "/registry/roles/"+u.ns+"/x")
	if err != nil || len(got.Kvs) != 1 {
		t.Fatal(got, err)
	}
	if _, err := etcd.Put(t.Context(), "/registry/roles/"+u.ns+"/y", strings.Replace(string(got.Kvs[0].Value), "\n\x01x", "\n\x01y", 1)); err != nil {
		t.Fatal(err)
	}
	u.says("y", "get", "role", "y", "-o", "name")
	if _, err := etcd.Delete(t.Context(), "/registry/roles/"+u.ns+"/y"); err != nil {
		t.Fatal(err)
	}
	machine.Wait(t, "the role to be gone", func(ctx context.Context) error {
		if r := u.do(nil, "get", "role", "y"); r.code == 0 {
			return errors.New("it is still there")
		}
		return nil
	})
}
