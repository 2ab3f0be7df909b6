// Package e2e drives the built celox from outside, as its users do: with kubectl and client-go, on real containers.
//
// Most tests share one machine, which TestMain makes; each works in a namespace of its own. Tests that need a machine to themselves (because
// they kill, restart or fill it) make one with machine.ForTest.
package e2e

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/celox/celox/test/e2e/machine"
	"github.com/celox/celox/test/image"
)

// busybox is the image of most test pods; it is imported, so that no registry is asked.
const busybox = "busybox:1"

// patience bounds how long a test waits for something that has to happen. It is no measurement.
const patience = 3 * time.Minute

// shared is the machine of the tests that need none of their own. TestMain sets it before any test runs.
var shared *machine.Machine

// spaces numbers the namespaces, so that a test may have several and may run several times.
var spaces atomic.Int64

func TestMain(m *testing.M) {
	if program := os.Getenv(oldKernel); program != "" {
		fmt.Fprintln(os.Stderr, "e2e:", onOldKernel(program)) // returns only if it fails
		os.Exit(1)
	}
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) (code int) {
	if flag.Lookup("test.list").Value.String() != "" {
		return m.Run()
	}
	// The tests wait for containers more than they compute: let more of them run than there are processors, unless somebody said how many.
	asked := false
	flag.Visit(func(f *flag.Flag) { asked = asked || f.Name == "test.parallel" })
	if !asked {
		if err := flag.Set("test.parallel", "6"); err != nil {
			fmt.Fprintln(os.Stderr, "e2e:", err)
			return 1
		}
	}
	var err error
	if shared, err = machine.New("shared"); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	defer func() {
		said := shared.Output()
		if err := shared.Remove(); err != nil {
			fmt.Fprintln(os.Stderr, "e2e:", err)
			code = 1
		}
		if code != 0 {
			if file := os.Getenv("CELOX_E2E_LOG"); file != "" {
				if err := os.WriteFile(file, []byte(said), 0o600); err != nil {
					fmt.Fprintln(os.Stderr, "e2e:", err)
				}
			}
		}
	}()
	if err := errors.Join(shared.Start("--log-level", "debug"), furnish(shared)); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	return m.Run()
}

// furnish imports the images that the tests use. What the seed documents call nginx is busybox's web server, which says its version.
func furnish(m *machine.Machine) error {
	img, err := image.Busybox("sh")
	if err != nil {
		return err
	}
	if err := m.Import(busybox, img); err != nil {
		return err
	}
	for _, version := range []string{"1.7.9", "1.9.1", "1.15"} {
		img, err := image.Busybox("sh", "-c", `mkdir -p /www && echo "nginx `+version+`" > /www/index.html
trap 'kill $!; exit 0' TERM
httpd -f -p 80 -h /www & wait`)
		if err != nil {
			return err
		}
		if err := m.Import("nginx:"+version, img); err != nil {
			return err
		}
	}
	return nil
}

// user is somebody at a terminal of a machine: a kubectl, and a namespace to work in.
type user struct {
	t       *testing.T
	m       *machine.Machine
	command []string // the kubectl
	ns      string
	env     []string
}

// newUser makes a namespace on the shared machine and somebody who works there with the built-in kubectl. The namespace is deleted in the
// end; nobody waits for that, because the machine goes in the end with all that is on it.
func newUser(t *testing.T) *user {
	t.Helper()
	bin, err := machine.Binary()
	if err != nil {
		t.Fatal(err)
	}
	u := &user{t: t, m: shared, command: []string{bin, "kubectl"}, ns: fmt.Sprintf("e2e-%d", spaces.Add(1))}
	c := u.client()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: u.ns}}
	if _, err := c.CoreV1().Namespaces().Create(t.Context(), ns, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("at the end of the test, namespace %s:\n%s", u.ns, u.picture())
		}
		grace := int64(0)
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		opts := metav1.DeleteOptions{GracePeriodSeconds: &grace}
		if err := errors.Join(
			c.CoreV1().Pods(u.ns).DeleteCollection(ctx, opts, metav1.ListOptions{}),
			c.CoreV1().Namespaces().Delete(ctx, u.ns, metav1.DeleteOptions{})); err != nil {
			t.Error(err)
		}
	})
	return u
}

// picture is what somebody would look at after a failure.
func (u *user) picture() string {
	var b strings.Builder
	for _, args := range [][]string{{"get", "pods,deployments,replicasets", "-o", "wide"}, {"events"}} {
		r := u.do(nil, args...)
		b.WriteString(r.out + r.err)
	}
	return b.String()
}

// with is the same user with another kubectl.
func (u *user) with(command ...string) *user {
	other := *u
	other.command = command
	return &other
}

// client is client-go, as the administrator.
func (u *user) client() kubernetes.Interface {
	u.t.Helper()
	c, err := u.m.Client()
	if err != nil {
		u.t.Fatal(err)
	}
	return c
}

// result is what a command left.
type result struct {
	out, err string
	code     int
}

// start prepares a kubectl command in the user's namespace.
func (u *user) start(args ...string) *exec.Cmd {
	all := append(u.command[1:len(u.command):len(u.command)], append([]string{"--namespace", u.ns}, args...)...)
	cmd := u.m.Command(u.command[0], all...)
	cmd.Env = append(cmd.Env, u.env...)
	return cmd
}

// do runs kubectl to its end, however it ends.
func (u *user) do(stdin io.Reader, args ...string) result {
	u.t.Helper()
	cmd := u.start(args...)
	var out, errOut bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &out, &errOut
	if err := u.m.NS.Start(cmd); err != nil {
		u.t.Fatal(err)
	}
	err := cmd.Wait()
	if exit := (&exec.ExitError{}); err != nil && !errors.As(err, &exit) {
		u.t.Fatal(err)
	}
	return result{out.String(), errOut.String(), cmd.ProcessState.ExitCode()}
}

// kubectl runs a command that has to succeed, and returns what it printed.
func (u *user) kubectl(args ...string) string {
	u.t.Helper()
	return u.feed("", args...)
}

// feed is kubectl with something on its standard input.
func (u *user) feed(stdin string, args ...string) string {
	u.t.Helper()
	var in io.Reader
	if stdin != "" {
		in = strings.NewReader(stdin)
	}
	r := u.do(in, args...)
	if r.code != 0 {
		u.t.Fatalf("kubectl %s: exit code %d\n%s%s", strings.Join(args, " "), r.code, r.out, r.err)
	}
	return r.out
}

// refused runs a command that has to fail, and returns what it complained.
func (u *user) refused(args ...string) string {
	u.t.Helper()
	r := u.do(nil, args...)
	if r.code == 0 {
		u.t.Fatalf("kubectl %s: succeeded and should not have\n%s%s", strings.Join(args, " "), r.out, r.err)
	}
	return r.err
}

// apply applies manifests.
func (u *user) apply(manifests string) string {
	u.t.Helper()
	return u.feed(manifests, "apply", "-f", "-")
}

// says runs a command until it prints what is wanted.
func (u *user) says(want string, args ...string) string {
	u.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		r := u.do(nil, args...)
		if r.code == 0 && strings.Contains(r.out, want) {
			return r.out
		}
		if time.Now().After(deadline) {
			u.t.Fatalf("kubectl %s: never printed %q, in the end:\n%s%s", strings.Join(args, " "), want, r.out, r.err)
		}
		time.Sleep(200 * time.Millisecond) // kubectl is asked again: what is awaited has many causes and no common event
	}
}

// shows runs a command until what it prints has a line for each regular expression, in that order: what controllers and the node say of
// something, events above all, comes a little after the thing itself.
func (u *user) shows(args []string, lines ...string) {
	u.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		r := u.do(nil, args...)
		missing := missingLine(u.t, r.out, lines)
		if r.code == 0 && missing == "" {
			return
		}
		if time.Now().After(deadline) {
			u.t.Fatalf("kubectl %s: no line %q (in its place), in the end:\n%s%s", strings.Join(args, " "), missing, r.out, r.err)
		}
		time.Sleep(200 * time.Millisecond) // as in says
	}
}

// await waits with kubectl for a condition or a jsonpath.
func (u *user) await(what, condition string) {
	u.t.Helper()
	u.kubectl("wait", what, "--for="+condition, "--timeout="+patience.String())
}

// file writes a file for kubectl to read.
func (u *user) file(name, content string) string {
	u.t.Helper()
	path := filepath.Join(u.t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o700); err != nil {
		u.t.Fatal(err)
	}
	return path
}

// pod runs a busybox pod with a shell script in its only container, c, and waits until it runs.
func (u *user) pod(name, script string, labels ...string) {
	u.t.Helper()
	u.apply(podManifest(name, script, labels...))
	u.await("pod/"+name, "condition=Ready")
}

func podManifest(name, script string, labels ...string) string {
	l := ""
	for _, label := range labels {
		l += ", " + strings.Replace(label, "=", ": ", 1)
	}
	return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata:
  name: %s
  labels: {name: %s%s}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: %s
    command: [sh, -c, %q]
`, name, name, l, busybox, script)
}

// like fails the test unless the text matches the lines, each a regular expression for one line in that order; spaces are as many as one likes.
func like(t *testing.T, text string, lines ...string) {
	t.Helper()
	got := strings.Split(strings.TrimRight(text, "\n"), "\n")
	if len(got) != len(lines) {
		t.Fatalf("%d lines, want %d:\n%s", len(got), len(lines), text)
	}
	for i, line := range lines {
		matchLine(t, text, got[i], line)
	}
}

// contains fails the test unless there is a line for each regular expression, in that order, with others before, between and after.
func contains(t *testing.T, text string, lines ...string) {
	t.Helper()
	if missing := missingLine(t, text, lines); missing != "" {
		t.Fatalf("no line %q (in this place):\n%s", missing, text)
	}
}

// missingLine is the first of the regular expressions for which there is no line in its place, "" if there is none.
func missingLine(t *testing.T, text string, lines []string) string {
	t.Helper()
	rest := strings.Split(text, "\n")
	for _, line := range lines {
		i := slices.IndexFunc(rest, lineExp(t, line).MatchString)
		if i < 0 {
			return line
		}
		rest = rest[i+1:]
	}
	return ""
}

func matchLine(t *testing.T, text, got, line string) {
	t.Helper()
	if !lineExp(t, line).MatchString(got) {
		t.Fatalf("line %q is not like %q, in:\n%s", got, line, text)
	}
}

func lineExp(t *testing.T, line string) *regexp.Regexp {
	t.Helper()
	re, err := regexp.Compile(`^\s*` + strings.Join(strings.Fields(line), `\s+`) + `\s*$`)
	if err != nil {
		t.Fatal(err)
	}
	return re
}

// has fails the test unless the text has all the parts.
func has(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Fatalf("no %q in:\n%s", part, text)
		}
	}
}
