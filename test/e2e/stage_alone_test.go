package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"go.opentelemetry.io/otel/trace/noop"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	cri "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	criclient "k8s.io/cri-client/pkg"

	"github.com/celox/celox/test/e2e/machine"
)

// policyTables counts a machine's tables with the rules of policies, and may remove them.
func policyTables(m *machine.Machine, remove bool) (int, error) {
	return tablesOf(m, "celox-policy-", remove)
}

// tablesOf counts a machine's tables whose names begin so, and may remove them.
func tablesOf(m *machine.Machine, prefix string, remove bool) (n int, err error) {
	err = m.NS.Do(func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		all, err := c.ListTables()
		for _, table := range all {
			if strings.HasPrefix(table.Name, prefix) {
				n++
				if remove {
					c.DelTable(table)
				}
			}
		}
		return errors.Join(err, c.Flush())
	})
	return n, err
}

// inside is a machine's container runtime, by which its pods are reached when the API is not.
type inside struct {
	t  *testing.T
	rt cri.RuntimeService
}

func newInside(t *testing.T, m *machine.Machine) inside {
	t.Helper()
	var rt cri.RuntimeService
	machine.Wait(t, "the runtime", func(context.Context) (err error) {
		rt, err = criclient.NewRemoteRuntimeService(t.Context(), "unix://"+filepath.Join(m.DataDir, "run", "cri.sock"), patience, noop.NewTracerProvider(), false)
		return err
	})
	t.Cleanup(func() { _ = rt.Close(context.Background()) }) // nothing is under way
	return inside{t, rt}
}

func ofPod(name string) map[string]string { return map[string]string{"io.kubernetes.pod.name": name} }

// run runs a script in the container of a pod.
func (i inside) run(ctx context.Context, pod, script string) (string, error) {
	list, err := i.rt.ListContainers(ctx, &runtimeapi.ContainerFilter{LabelSelector: ofPod(pod), State: &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING}})
	if err != nil {
		return "", err
	}
	if len(list) != 1 {
		return "", fmt.Errorf("pod %s has %d running containers", pod, len(list))
	}
	out, errOut, err := i.rt.ExecSync(ctx, list[0].Id, []string{"sh", "-c", script}, patience)
	if err != nil {
		err = fmt.Errorf("%w: %s", err, errOut)
	}
	return string(out), err
}

// tried waits until a pod has called some more times, and returns how often it was answered in all.
func (i inside) tried(pod string) (answers int) {
	i.t.Helper()
	numbers := func(ctx context.Context) (tries, answers int, err error) {
		out, err := i.run(ctx, pod, "cat /tries | wc -l; cat /answers | wc -l")
		if err != nil {
			return 0, 0, err
		}
		f := strings.Fields(out)
		if len(f) != 2 {
			return 0, 0, fmt.Errorf("it says %q", out)
		}
		tries, err = strconv.Atoi(f[0])
		if err == nil {
			answers, err = strconv.Atoi(f[1])
		}
		return tries, answers, err
	}
	begin := -1
	machine.Wait(i.t, "pod "+pod+" to call", func(ctx context.Context) error {
		tries, got, err := numbers(ctx)
		if err != nil {
			return err
		}
		if begin < 0 || tries < begin { // or in another container
			begin = tries
		}
		if tries < begin+5 {
			return fmt.Errorf("it has called %d times, since %d", tries, begin)
		}
		answers = got
		return nil
	})
	return answers
}

// forget has pods forget what was answered: what was let through meanwhile doesn't count, nor does what is under way.
func (i inside) forget(pods ...string) {
	i.t.Helper()
	for _, pod := range pods {
		machine.Wait(i.t, "pod "+pod+" to forget", func(ctx context.Context) error {
			_, err := i.run(ctx, pod, "sleep 2; : >/answers")
			return err
		})
	}
}

// callerPod calls a server without end, from its first moment on, and notes it.
func callerPod(name, node, server string) *corev1.Pod {
	p := shellPod(name, fmt.Sprintf("touch /tries /answers; trap 'exit 0' TERM; while :; do if printf 'GET /cgi-bin/who HTTP/1.0\\r\\n\\r\\n' | timeout 3 nc -w 1 %s 8080 | grep -q 200; then echo >>/answers; fi; echo >>/tries; sleep 0.1; done", server), "")
	mount := false // of a token, which only the API could renew
	p.Spec.AutomountServiceAccountToken = &mount
	p.Labels, p.Spec.NodeName, p.Spec.Tolerations = map[string]string{"app": name}, node, []corev1.Toleration{{Operator: corev1.TolerationOpExists}}
	return p
}

// policiesAlone cuts a machine off: what is in force stays so for pods that there are and for new sandboxes, also when the agent starts anew, and when somebody
// removes the rules meanwhile.
func (s *fleet) policiesAlone(t *testing.T) {
	const node = "stage-2"
	m := s.machines[2]
	on, err := s.running(t.Context(), 3)
	if err != nil {
		t.Fatal(err)
	}
	server := on[node][0].Status.PodIP
	s.policy(t, "metadata: {name: mute, namespace: default}\nspec: {podSelector: {matchLabels: {app: muted}}, policyTypes: [Egress]}\n")
	for _, name := range []string{"muted", "free"} {
		if _, err := s.client.CoreV1().Pods("default").Create(t.Context(), callerPod(name, node, server), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := s.machines[0].Kubectl(nil, "wait", "pod/"+name, "--for=condition=Ready", "--timeout", patience.String()); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.segments[1].SetPort(portOfRouter, false); err != nil {
		t.Fatal(err)
	}
	look := newInside(t, m)
	holds := func(when string) {
		t.Helper()
		if n := look.tried("muted"); n != 0 {
			t.Errorf("%s, the policy let %d calls through", when, n)
		}
		if n := look.tried("free"); n == 0 {
			t.Errorf("%s, nobody is answered", when)
		}
	}
	holds("cut off")

	// The pod's sandbox goes, and the node makes another, with another address, of which nobody could have been told.
	boxes, err := look.rt.ListPodSandbox(t.Context(), &runtimeapi.PodSandboxFilter{LabelSelector: ofPod("muted")})
	if err != nil || len(boxes) != 1 {
		t.Fatalf("%d sandboxes, %v", len(boxes), err)
	}
	if err := look.rt.StopPodSandbox(t.Context(), boxes[0].Id); err != nil {
		t.Fatal(err)
	}
	machine.Wait(t, "another sandbox", func(ctx context.Context) error {
		all, err := look.rt.ListPodSandbox(ctx, &runtimeapi.PodSandboxFilter{LabelSelector: ofPod("muted"), State: &runtimeapi.PodSandboxStateValue{State: runtimeapi.PodSandboxState_SANDBOX_READY}})
		if err == nil && (len(all) != 1 || all[0].Id == boxes[0].Id) {
			err = fmt.Errorf("there are %d", len(all))
		}
		return err
	})
	holds("in a new sandbox")

	if err := m.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if n, err := policyTables(m, true); err != nil || n == 0 {
		t.Fatalf("%d tables stay in force without a process: %v", n, err)
	}
	if err := m.Begin("node stage-2 of the cluster at "); err != nil {
		t.Fatal(err)
	}
	back := func() {
		t.Helper()
		machine.Wait(t, "the rules to be back", func(context.Context) error {
			n, err := policyTables(m, false)
			if err == nil && n == 0 {
				err = errors.New("there is no table")
			}
			return err
		})
		look.forget("muted")
	}
	look = newInside(t, m)
	back()
	holds("with a new agent, which found no rules")
	if _, err := policyTables(m, true); err != nil {
		t.Fatal(err)
	}
	back()
	holds("after somebody removed the rules, with a new agent")

	if err := s.segments[1].SetPort(portOfRouter, true); err != nil {
		t.Fatal(err)
	}
	s.everyFamily(t, 1)
	holds("with the server back")
	if _, err := s.machines[0].Kubectl(nil, "delete", "networkpolicy", "mute"); err != nil {
		t.Fatal(err)
	}
	machine.Wait(t, "the policy to be gone", func(context.Context) error {
		if look.tried("muted") == 0 {
			return errors.New("nobody answers")
		}
		return nil
	})
	if _, err := s.machines[0].Kubectl(nil, "delete", "pod", "muted", "free", "--timeout", patience.String()); err != nil {
		t.Fatal(err)
	}
}

// rotates gives a node a certificate that is nearly over, and keeps it from renewing it for a while.
func (s *fleet) rotates(t *testing.T) {
	m := s.machines[2]
	file := filepath.Join(m.DataDir, "agent", "client.pem")
	read := func() *x509.Certificate {
		t.Helper()
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		pair, err := tls.X509KeyPair(text, text)
		if err != nil {
			t.Fatal(err)
		}
		c, err := x509.ParseCertificate(pair.Certificate[0])
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	if err := m.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	pki := filepath.Join(s.machines[0].DataDir, "pki")
	ca, err := tls.LoadX509KeyPair(filepath.Join(pki, "ca.crt"), filepath.Join(pki, "ca.key"))
	if err != nil {
		t.Fatal(err)
	}
	authority, err := x509.ParseCertificate(ca.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	key, ok := ca.PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		t.Fatalf("the authority has a key of the type %T", ca.PrivateKey)
	}
	old := issue(t, &certificate{cert: authority, key: key}, &x509.Certificate{
		Subject:   pkix.Name{CommonName: "system:node:stage-2", Organization: []string{"system:nodes"}},
		NotBefore: time.Now().Add(-30 * 24 * time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err := os.WriteFile(file, append(old.certPEM, old.keyPEM...), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.segments[1].SetPort(portOfRouter, false); err != nil {
		t.Fatal(err)
	}
	from := len(m.Output())
	if err := m.Begin("node stage-2 of the cluster at "); err != nil {
		t.Fatal(err)
	}
	machine.Wait(t, "the agent to say that it cannot renew its certificate", func(context.Context) error {
		if !strings.Contains(m.Output()[from:], "cannot renew a certificate of the node") {
			return errors.New("it says nothing")
		}
		return nil
	})
	pid := m.Pid()
	if err := s.segments[1].SetPort(portOfRouter, true); err != nil {
		t.Fatal(err)
	}
	machine.Wait(t, "another certificate", func(context.Context) error {
		if c := read(); time.Until(c.NotAfter) < 24*time.Hour {
			return fmt.Errorf("it is good until %v", c.NotAfter)
		}
		return nil
	})
	s.everyFamily(t, 1)
	if m.Pid() != pid || pid == 0 {
		t.Error("the agent did not live through it")
	}
}

// blackHole has the router lose what goes through tunnels and is long, without a word. The pods' way is told of, and what helps.
func (s *fleet) blackHole(t *testing.T) {
	m := s.machines[2]
	if err := m.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := s.router.Filter(machine.Firewall{UDPPort: vxlanPort, Longer: 1300}); err != nil {
		t.Fatal(err)
	}
	from := len(m.Output())
	if err := m.StartAgent(); err != nil { // a way that is new is looked at soon
		t.Fatal(err)
	}
	s.events(t, "stage-2", "MTUTooLarge", "set the MTU of this machine's interface")
	if said := m.Output()[from:]; !strings.Contains(said, "get lost, small ones arrive") {
		t.Error("the agent does not say what is lost")
	}
	if err := s.router.Filter(machine.Firewall{}); err != nil {
		t.Fatal(err)
	}
	machine.Wait(t, "the agent to say that it is over", func(context.Context) error {
		if !strings.Contains(m.Output()[from:], "the way to the pods of a node works again") {
			return errors.New("it says nothing")
		}
		return nil
	})
	s.everyFamily(t, 1)
}
