package admission

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
)

func configuration(t *testing.T, text string) (Configuration, error) {
	t.Helper()
	dir := t.TempDir()
	for name, data := range map[string]string{
		"admission.yaml":   text,
		"hooks.kubeconfig": "apiVersion: v1\nkind: Config\nusers: [{name: '*', user: {token: t}}]\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return LoadConfiguration(filepath.Join(dir, "admission.yaml"))
}

const head = "apiVersion: apiserver.config.k8s.io/v1\nkind: AdmissionConfiguration\nplugins:\n"

const exempting = `- name: PodSecurity
  configuration:
    apiVersion: pod-security.admission.config.k8s.io/v1
    kind: PodSecurityConfiguration
    defaults: {enforce: baseline, warn: restricted, warn-version: v1.30}
    exemptions: {usernames: [alice], namespaces: [kube-system], runtimeClasses: [kata]}
`

const calling = `- name: MutatingAdmissionWebhook
  configuration:
    apiVersion: apiserver.config.k8s.io/v1
    kind: WebhookAdmissionConfiguration
    kubeConfigFile: hooks.kubeconfig
`

func TestLoadConfiguration(t *testing.T) {
	for _, c := range []struct{ name, text, err string }{
		{"nothing", head, ""},
		{"podsecurity", head + exempting, ""},
		{"no configuration", "apiVersion: v1\nkind: ConfigMap\n", "is no AdmissionConfiguration of apiserver.config.k8s.io/v1"},
		{"another plugin", head + "- name: EventRateLimit\n  configuration: {a: b}\n", `the plugin "EventRateLimit" takes no configuration`},
		{"quotas", head + limiting, ""},
		{"another kind of quotas", head + strings.Replace(limiting, "ResourceQuotaConfiguration", "Quotas", 1), "is no ResourceQuotaConfiguration of apiserver.config.k8s.io/v1"},
		{"a limit of nothing", head + strings.Replace(limiting, "resource: pods, ", "", 1), "limitedResources[1]: resource is empty"},
		{"a word that quotas don't know", head + strings.Replace(limiting, "matchContains", "contains", 1), `unknown field "contains"`},
		{"webhooks", head + calling, ""},
		{"webhooks without a file", head + strings.Replace(calling, "kubeConfigFile: hooks.kubeconfig", "", 1), ""},
		{"another kind of webhooks", head + strings.Replace(calling, "WebhookAdmissionConfiguration", "Webhooks", 1), "is no WebhookAdmissionConfiguration of apiserver.config.k8s.io/v1"},
		{"no kubeconfig", head + strings.Replace(calling, "hooks.kubeconfig", "nosuch", 1), "configuration of MutatingAdmissionWebhook: open "},
		{"twice", head + "- name: PodSecurity\n- name: PodSecurity\n", "the plugin PodSecurity is there twice"},
		{"no file", head + "- name: PodSecurity\n  path: nosuch.yaml\n", "configuration of PodSecurity: open "},
		{"unknown field", head + strings.Replace(exempting, "defaults", "default", 1), `unknown field "default"`},
		{"unknown level", head + strings.Replace(exempting, "baseline", "strict", 1), `defaults.enforce: Invalid value: "strict"`},
		{"unknown version", head + strings.Replace(exempting, "v1.30", "1", 1), `defaults.warn-version: Invalid value: "1"`},
		{"twice exempt", head + strings.Replace(exempting, "[alice]", "[alice, alice]", 1), `exemptions.usernames[1]: Duplicate value: "alice"`},
		{"another kind", head + strings.Replace(exempting, "config.k8s.io/v1\n    kind: PodSec", "config.k8s.io/v7\n    kind: PodSec", 1), "is no PodSecurityConfiguration"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := configuration(t, c.text)
			if c.name == "webhooks" && (got.MutatingWebhooks.For("a.b.svc:443") == nil || got.ValidatingWebhooks != nil) {
				t.Errorf("got %+v", got)
			}
			if c.err == "" && err != nil || c.err != "" && !strings.Contains(text(err), c.err) {
				t.Fatalf("got %v, want %q", err, c.err)
			}
			if c.name == "podsecurity" && (got.PodSecurity.Defaults.String() == "" || got.PodSecurity.Usernames[0] != "alice" || got.PodSecurity.Defaults.Audit.Level != "privileged") {
				t.Errorf("got %+v", got.PodSecurity)
			}
		})
	}
}

func TestLoadConfigurationBeside(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"a.yaml":  head + "- {name: PodSecurity, path: ps.yaml}\n",
		"ps.yaml": "apiVersion: pod-security.admission.config.k8s.io/v1beta1\nkind: PodSecurityConfiguration\ndefaults: {enforce: restricted}\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, err := LoadConfiguration(filepath.Join(dir, "a.yaml"))
	if err != nil || c.PodSecurity == nil || c.PodSecurity.Defaults.Enforce.String() != "restricted:latest" {
		t.Fatalf("%+v, %v", c.PodSecurity, err)
	}
}

// sum adds up a metric by the value of one of its labels.
func sum(t *testing.T, r *prometheus.Registry, name, label string) map[string]int {
	t.Helper()
	out := map[string]int{}
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.Metric {
			for _, p := range m.Label {
				if p.GetName() == label {
					out[p.GetValue()] += int(m.Counter.GetValue()) + int(m.Histogram.GetSampleCount())
				}
			}
		}
	}
	return out
}

func TestPodSecurityConfiguration(t *testing.T) {
	f := setup(t)
	c, err := configuration(t, head+exempting)
	if err != nil {
		t.Fatal(err)
	}
	security, err := NewPodSecurity(f.Objects, c.PodSecurity)
	if err != nil {
		t.Fatal(err)
	}
	f.chain = Chain{security}
	r := prometheus.NewRegistry()
	m := NewMetrics(r, f.chain)
	notes := map[string]string{}
	observed := func(a *Attributes) {
		clear(notes)
		a.Metrics, a.Annotate = m, func(k, v string) { notes[k] = v }
	}
	f.Put(&corev1.Namespace{ObjectMeta: meta("", "kube-system")})
	privileged := func(p *corev1.Pod) {
		p.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{Privileged: new(true)}
	}
	const refused = `pods "x" is forbidden: violates PodSecurity "baseline:latest": privileged (container "c" must not set securityContext.privileged=true)`
	exempt := func(why string) {
		t.Helper()
		expect(t, "why", notes["pod-security.kubernetes.io/exempt"], why)
	}
	expect(t, "default", f.create(t, pod("x", privileged), observed), refused)
	exempt("")
	expect(t, "user", f.create(t, pod("x", privileged), observed, by(&user.DefaultInfo{Name: "alice"})), "")
	exempt("user")
	expect(t, "namespace", f.create(t, pod("x", privileged, func(p *corev1.Pod) { p.Namespace = "kube-system" }), observed), "")
	exempt("namespace")
	expect(t, "runtime class", f.create(t, pod("x", privileged, func(p *corev1.Pod) { p.Spec.RuntimeClassName = new("kata") }), observed), "")
	exempt("runtimeClass")
	f.warnings = nil
	expect(t, "plain", f.create(t, pod("x"), observed), "")
	if len(f.warnings) != 1 || !strings.HasPrefix(f.warnings[0], `would violate PodSecurity "restricted:v1.30"`) {
		t.Errorf("warnings: %q", f.warnings)
	}
	f.warnings = nil
	labelled := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "kube-system", Labels: map[string]string{"pod-security.kubernetes.io/enforce": "restricted"}}}
	expect(t, "labels of an exempt namespace", f.create(t, labelled, observed), "")
	expect(t, "warning", strings.Join(f.warnings, "|"), `namespace "kube-system" is exempt from Pod Security, and the policy (enforce=restricted:latest) will be ignored`)

	for _, c := range []struct {
		metric, label string
		want          map[string]int
	}{
		{"pod_security_evaluations_total", "mode", map[string]int{"enforce": 2, "warn": 1}},
		{"pod_security_evaluations_total", "decision", map[string]int{"allow": 1, "deny": 2}},
		{"pod_security_exemptions_total", "resource", map[string]int{"pod": 3}},
		{"apiserver_admission_controller_admission_duration_seconds", "name", map[string]int{"PodSecurity": 6}},
		{"apiserver_admission_controller_admission_duration_seconds", "rejected", map[string]int{"false": 5, "true": 1}},
		{"apiserver_admission_step_admission_duration_seconds", "type", map[string]int{"admit": 6, "validate": 6}},
	} {
		got := sum(t, r, c.metric, c.label)
		for k, n := range c.want {
			if got[k] != n || len(got) != len(c.want) {
				t.Errorf("%s by %s: %v, want %v", c.metric, c.label, got, c.want)
				break
			}
		}
	}
}
