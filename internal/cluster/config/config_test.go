package config

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

func flags(args ...string) (*Server, *pflag.FlagSet, error) {
	s := &Server{}
	fs := pflag.NewFlagSet("server", pflag.ContinueOnError)
	s.Bind(fs)
	return s, fs, fs.Parse(args)
}

func TestPrecedence(t *testing.T) {
	s, fs, err := flags("--https-port=1")
	if err != nil {
		t.Fatal(err)
	}
	if err := applyEnv(fs, []string{"CELOX_HTTPS_PORT=2", "CELOX_NODE_NAME=env", "CELOX_BIN=ignored", "HOME=/"}); err != nil {
		t.Fatal(err)
	}
	if err := applyFile(fs, "f.yaml", []byte("https-port: 3\nnode-name: file\ndisable-node: true\netcd-servers: [http://a:1, http://b:2]\n")); err != nil {
		t.Fatal(err)
	}
	if s.HTTPSPort != 1 || s.NodeName != "env" || !s.DisableNode || len(s.EtcdServers) != 2 {
		t.Errorf("got %+v", s)
	}
}

func TestFlags(t *testing.T) {
	s, _, err := flags("--https-port=7", "--tls-san=a,b")
	if err != nil {
		t.Fatal(err)
	}
	s.NodeName = "later" // what is set besides the flags counts as well
	if f := s.Flags(); f["https-port"] != "7" || f["tls-san"] != "[a,b]" || f["cluster-cidr"] != "10.42.0.0/16" || f["node-name"] != "later" {
		t.Errorf("%v", f)
	}
	if s.HTTPSPort != 7 {
		t.Error("looking changed the flags")
	}
}

func TestRuns(t *testing.T) {
	tests := []struct {
		name string
		args []string
		want map[string]bool
	}{
		{"unless told otherwise all", nil, map[string]bool{"job-controller": true, "scheduler": true}},
		{"all but one", []string{"--controllers=*,-job-controller"}, map[string]bool{"job-controller": false, "scheduler": true}},
		{"these", []string{"--controllers=job-controller", "--controllers=scheduler"}, map[string]bool{"job-controller": true, "scheduler": true, "cronjob-controller": false}},
		{"none", []string{"--controllers="}, map[string]bool{"job-controller": false, "scheduler": false}},
		{"by upstream's names", []string{"--controllers=*,-daemonset-controller,-node-lifecycle-controller"}, map[string]bool{"daemon-set-controller": false, "node-controller": false, "job-controller": true}},
		{"this one by upstream's name", []string{"--controllers=garbage-collector-controller"}, map[string]bool{"generic-garbage-collector": true, "job-controller": false}},
		{"the first word counts", []string{"--controllers=-scheduler,scheduler,*"}, map[string]bool{"job-controller": true, "scheduler": false}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, _, err := flags(tt.args...)
			if err != nil {
				t.Fatal(err)
			}
			for name, want := range tt.want {
				if got := s.Runs(name); got != want {
					t.Errorf("%s: got %t, want %t", name, got, want)
				}
			}
		})
	}
	if !new(Server).Runs("job-controller") {
		t.Error("a server that was never told which controllers to run does not run one")
	}
}

func TestUnknownControllers(t *testing.T) {
	for words, want := range map[string]string{
		"*,-job-controller,scheduler":          "",
		"":                                     "",
		"*,-daemonset-controller":              "",
		"*,-selinux-warning-controller":        "",
		"selinux-warning-controller":           "--controllers: Celox has no selinux-warning-controller",
		"*,-daemonsets-controller":             `--controllers: there is no "daemonsets-controller": did you mean "daemonset-controller"?`,
		"*,cron":                               `--controllers: there is no "cron"; there are attachdetach-controller, bootstrap-signer, bootstrap-signer-controller, `,
		"-":                                    `--controllers: there is no ""; there are attachdetach-controller`,
		"job-controler,deployments-controller": `--controllers: there is no "job-controler": did you mean "job-controller"?`,
	} {
		s, _, err := flags("--node-name=n", "--controllers="+words)
		if err != nil {
			t.Fatal(err)
		}
		err = s.Complete()
		if got := fmt.Sprint(err); want == "" && err != nil || !strings.HasPrefix(got, want) {
			t.Errorf("%s: %v, want %s", words, err, want)
		}
	}
}

// TestUpstreamNames: what upstream calls a controller of ours is one that there is.
func TestUpstreamNames(t *testing.T) {
	for name, own := range upstreamNames {
		if !slices.Contains(Controllers(), own) {
			t.Errorf("%s is %s, which there is not", name, own)
		}
	}
	for _, name := range missingControllers {
		if slices.Contains(Controllers(), name) || upstreamNames[name] != "" {
			t.Errorf("%s is not missing", name)
		}
	}
}

func TestFileErrorsNameTheLine(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"syntax", "a: b\n  c: [", "line 2"},
		{"unknown", "\nhttp-port: 1\n", `line 2: unknown key "http-port": did you mean "https-port"?`},
		{"type", "https-port: many\n", "line 1: https-port:"},
		{"twice", "log-level: info\nlog-level: debug\n", "line 2: key \"log-level\" stands in line 1 already"},
		{"no mapping", "- a\n", "line 1"},
		{"nested", "node-name: {a: b}\n", "line 1: node-name: want a plain value"},
		{"not a key", "config: other.yaml\n", "unknown key"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, fs, _ := flags()
			err := applyFile(fs, "f.yaml", []byte(tt.in))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want it to say %q", err, tt.want)
			}
		})
	}
}

func TestCompleteNamesTheKey(t *testing.T) {
	for key, value := range map[string]string{
		"bind-address": "localhost", "https-port": "0", "node-name": "A_b", "node-ip": "x", "etcd-servers": "localhost", "cluster-cidr": "10.42.0.1/24",
		"service-cidr": "x", "log-level": "loud", "registry-mirror": "x", "etcd-certfile": "only.crt", "cluster-domain": "-",
		"disable": "the-node", "proxy-mode": "ipvs", "audit-policy-file": "policy.yaml", "scheduler-config": "/nowhere/scheduler.yaml", "scheduler-crash-memory": "-1h", "audit-log-maxage": "-1", "audit-log-maxbackup": "-1", "audit-log-maxsize": "-1",
		"container-log-max-size": "lots", "container-log-max-files": "1",
		"eviction-hard": "memory<1", "allowed-unsafe-sysctls": "vm.*", "image-gc-high-threshold": "101", "image-gc-low-threshold": "85",
	} {
		s, _, err := flags("--" + key + "=" + value)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Complete(); err == nil || !strings.Contains(err.Error(), "--"+key+": ") {
			t.Errorf("--%s=%s: got %v", key, value, err)
		}
	}
	s, _, _ := flags("--node-name=n", "--data-dir=x")
	if err := s.Complete(); err != nil || !strings.HasSuffix(s.WriteKubeconfig, "/x/admin.kubeconfig") {
		t.Errorf("defaults: %v, kubeconfig %q", err, s.WriteKubeconfig)
	}
}

func TestPluginsOfRegistriesNeedBothFlags(t *testing.T) {
	const file, dir = "image-credential-provider-config", "image-credential-provider-bin-dir"
	for given, missing := range map[string]string{file: dir, dir: file} {
		s, _, err := flags("--" + given + "=/x")
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Complete(); err == nil || !strings.Contains(err.Error(), "--"+missing+": not given") {
			t.Errorf("--%s alone: %v", given, err)
		}
	}
}

func TestValuesOfTheWrongKind(t *testing.T) {
	for key, want := range map[string]string{"https-port": "use a whole number", "disable-node": "use true or false", "scheduler-crash-memory": "use a time like"} {
		_, fs, _ := flags()
		if err := applyEnv(fs, []string{"CELOX_" + strings.ReplaceAll(strings.ToUpper(key), "-", "_") + "=x"}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", key, err, want)
		}
		if err := applyFile(fs, "f.yaml", []byte(key+": x\n")); err == nil || !strings.Contains(err.Error(), "line 1: "+key+": "+want) {
			t.Errorf("%s: %v, want %s", key, err, want)
		}
	}
}

func FuzzFile(f *testing.F) {
	f.Add([]byte("https-port: 1\n"))
	f.Add([]byte("a: &x [*x]"))
	f.Fuzz(func(_ *testing.T, data []byte) {
		_, fs, _ := flags()
		_ = applyFile(fs, "f", data) // must not panic
	})
}

// TestNoProxy: the mode none is the part left out.
func TestNoProxy(t *testing.T) {
	s, _, err := flags("--proxy-mode=none", "--node-name=n")
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.Complete(); err != nil || !s.Disables(ServiceProxy) || len(s.Disable) != 1 {
			t.Errorf("%v, %v", s.Disable, err)
		}
	}
}
