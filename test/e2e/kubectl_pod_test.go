package e2e

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestLogs(t *testing.T) {
	t.Parallel()
	u := newUser(t)
	u.apply(fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: p}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: chatty, image: %[1]s, command: [sh, -c, "for i in 1 2 3 4 5; do echo line $i; done; echo line 6; sleep 3600"]}
  - {name: other, image: %[1]s, command: [sh, -c, "echo other >&2; sleep 3600"]}
`, busybox))
	u.await("pod/p", "condition=Ready")
	r := u.do(nil, "logs", "p")
	has(t, r.err, "Defaulted container \"chatty\" out of: chatty, other")
	u.says("line 6", "logs", "p")
	like(t, u.kubectl("logs", "p", "-c", "chatty"), `line 1`, `line 2`, `line 3`, `line 4`, `line 5`, `line 6`)
	like(t, u.kubectl("logs", "p", "chatty", "--tail=2"), `line 5`, `line 6`)
	like(t, u.kubectl("logs", "p", "-c", "chatty", "--tail=1", "--timestamps"), `20\d\d-\d\d-\d\dT\S+Z line 6`)
	like(t, u.kubectl("logs", "p", "-c", "chatty", "--limit-bytes=6"), `line 1`)
	like(t, u.kubectl("logs", "p", "-c", "chatty", "--since=1h", "--tail=1"), `line 6`)
	like(t, u.kubectl("logs", "p", "-c", "chatty", "--since-time=2100-01-01T00:00:00Z"), ``)
	like(t, u.says("other", "logs", "p", "-c", "other"), `other`)
	// kubectl reads the containers at the same time: their order is not given.
	has(t, u.kubectl("logs", "p", "--all-containers", "--prefix"), "[pod/p/chatty] line 1\n", "[pod/p/other] other\n")
	has(t, u.refused("logs", "p", "-c", "nobody"), `container nobody is not valid for pod p`)
	has(t, u.refused("logs", "p", "-c", "other", "--previous"), `previous terminated container "other" in pod "p" not found`)
}

// TestLogsFollow reads lines as they are written, over a restart of the client, until the container ends.
func TestLogsFollow(t *testing.T) {
	t.Parallel()
	u := newUser(t)
	u.apply(strings.Replace(podManifest("p", "echo begin; while [ ! -e /tmp/go ]; do sleep 0.1; done; for i in $(seq 1 2000); do echo line $i; done; echo end"), "spec:", "spec:\n  restartPolicy: Never", 1))
	u.await("pod/p", "condition=Ready")
	cmd := u.start("logs", "-f", "p")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := u.m.NS.Start(cmd); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	lines := bufio.NewScanner(out)
	if !lines.Scan() || lines.Text() != "begin" {
		t.Errorf("the first line is %q", lines.Text())
	}
	u.kubectl("exec", "p", "--", "touch", "/tmp/go")
	n, last := 0, ""
	for lines.Scan() {
		n, last = n+1, lines.Text()
	}
	if err := cmd.Wait(); err != nil || n != 2001 || last != "end" {
		t.Errorf("%d lines after the first, the last is %q: %v", n, last, err)
	}
}

func TestLogsPrevious(t *testing.T) {
	t.Parallel()
	u := newUser(t)
	u.apply(podManifest("p", `if [ -e /data/again ]; then echo second; sleep 3600; fi; touch /data/again; echo first; exit 3`) + "    volumeMounts: [{name: data, mountPath: /data}]\n  volumes: [{name: data, emptyDir: {}}]\n")
	u.await("pod/p", "jsonpath={.status.containerStatuses[0].restartCount}=1")
	u.await("pod/p", "condition=Ready")
	like(t, u.kubectl("logs", "p", "--previous"), `first`)
	u.says("second", "logs", "p")
	like(t, u.kubectl("get", "pod", "p", "-o", "jsonpath={.status.containerStatuses[0].lastState.terminated.exitCode} {.status.containerStatuses[0].lastState.terminated.reason}"), `3 Error`)
	like(t, u.kubectl("get", "pod", "p"), `NAME READY STATUS RESTARTS AGE`, `p 1/1 Running 1 \(\S+ ago\) \S+`)
}

func TestExec(t *testing.T) {
	t.Parallel()
	u := newUser(t)
	u.pod("p", "sleep 3600")
	like(t, u.kubectl("exec", "p", "--", "echo", "hello", "there"), `hello there`)
	r := u.do(nil, "exec", "p", "--", "sh", "-c", "echo out; echo err >&2; exit 42")
	if r.out != "out\n" || !strings.Contains(r.err, "err\n") || !strings.Contains(r.err, "command terminated with exit code 42") || r.code != 42 {
		t.Errorf("exec: %+v", r)
	}
	like(t, u.feed("some\nlines\n", "exec", "-i", "p", "--", "wc", "-l"), `2`)
	big := strings.Repeat("0123456789abcdef", 1<<16) // 1 MiB there and back
	if back := u.feed(big, "exec", "-i", "p", "--", "cat"); back != big {
		t.Errorf("%d bytes came back of %d", len(back), len(big))
	}
	has(t, u.refused("exec", "p", "--", "no-such-program"), "no-such-program", "executable file not found in $PATH")
	has(t, u.refused("exec", "p", "-c", "nobody", "--", "true"), "container nobody")
	has(t, u.refused("exec", "nobody", "--", "true"), `pods "nobody" not found`)
}

// TestExecTTY uses a terminal, as a person does.
func TestExecTTY(t *testing.T) {
	t.Parallel()
	u := newUser(t)
	u.pod("p", "sleep 3600")
	term := newTerminal(t, 31, 97)
	cmd := u.start("exec", "-it", "p", "--", "sh")
	term.start(u, cmd)
	term.expect("# ")
	term.write("tty; stty size\n")
	term.expect("/dev/pts/")
	term.expect("31 97")
	term.resize(40, 120)
	term.write("while [ \"$(stty size)\" != '40 120' ]; do sleep 0.1; done; echo re\"\"sized\n")
	term.expect("resized")
	term.write("sh -c 'echo go\"\"ing; exec sleep 1000'\n") // what says it is in the foreground already: control-C is for it
	term.expect("going")
	term.write("\x03") // control-C ends the sleep, not the shell
	term.write("echo still he\"\"re\n")
	term.expect("still here")
	term.write("exit 7\n")
	if err := cmd.Wait(); err == nil || cmd.ProcessState.ExitCode() != 7 {
		t.Errorf("the shell ended with %v", err)
	}
}

func TestAttach(t *testing.T) {
	t.Parallel()
	u := newUser(t)
	u.apply(strings.Replace(podManifest("p", "echo ready; while read line; do echo got $line; done; echo the end; sleep 3600"), "    image:", "    stdin: true\n    image:", 1))
	u.await("pod/p", "condition=Ready")
	cmd := u.start("attach", "-i", "p")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var out, errOut bytes.Buffer
	read, write := io.Pipe()
	cmd.Stdout, cmd.Stderr = write, &errOut
	if err := u.m.NS.Start(cmd); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	if _, err := io.WriteString(in, "one\n"); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(read)
	for lines.Scan() && !strings.Contains(lines.Text(), "got one") {
		out.WriteString(lines.Text() + "\n")
	}
	if _, err := io.WriteString(in, "two\n"); err != nil {
		t.Fatal(err)
	}
	for lines.Scan() && !strings.Contains(lines.Text(), "got two") {
		out.WriteString(lines.Text() + "\n")
	}
	_ = cmd.Process.Kill()
	go func() { _, _ = io.Copy(io.Discard, read) }()
	_ = cmd.Wait() // it was killed
	_ = write.Close()
	if strings.Contains(out.String(), "got") {
		t.Errorf("attach printed %q before what was expected", out.String())
	}
	u.says("got two", "logs", "p")
}

func TestCp(t *testing.T) {
	t.Parallel()
	u := newUser(t)
	u.pod("p", "sleep 3600")
	dir := t.TempDir()
	content := strings.Repeat("content of the file\n", 10_000)
	if err := os.MkdirAll(filepath.Join(dir, "tree/deep"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"tree/a", "tree/deep/b"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	u.kubectl("cp", filepath.Join(dir, "tree"), "p:/tmp/there")
	like(t, u.kubectl("exec", "p", "--", "sh", "-c", "cd /tmp/there && find . -type f | sort && stat -c %a a && md5sum < a"), `\./a`, `\./deep/b`, `640`, `\w+ -`)
	u.kubectl("cp", "p:tmp/there/deep/b", filepath.Join(dir, "back"))
	back, err := os.ReadFile(filepath.Join(dir, "back"))
	if err != nil || string(back) != content {
		t.Errorf("%d bytes came back of %d: %v", len(back), len(content), err)
	}
}

func TestPortForward(t *testing.T) {
	t.Parallel()
	u := newUser(t)
	u.apply(servingDeployment("web", 1))
	u.kubectl("rollout", "status", "deployment/web")
	for _, target := range []string{"deployment/web", "service/web"} {
		port := ":8080"
		if target == "service/web" {
			port = ":80"
		}
		address := u.background(u.start("port-forward", target, port), `Forwarding from (127\.0\.0\.1:\d+) -> 8080`)
		for range 3 {
			has(t, u.fetchPatiently("http://"+address), "the page")
		}
	}
}

// servingDeployment is aDeployment whose pods serve a page, and are ready when they do.
func servingDeployment(name string, replicas int) string {
	return strings.Replace(aDeployment(name, replicas), `command: [sleep, "3600"]`,
		`command: [sh, -c, "echo started; mkdir /www; echo the page > /www/index.html; exec httpd -f -p 8080 -h /www"]
        readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1, timeoutSeconds: 60}`, 1)
}

// fetchPatiently fetches what may not be listening yet.
func (u *user) fetchPatiently(url string) string {
	u.t.Helper()
	u.reachable(strings.TrimPrefix(url, "http://"))
	return u.fetch(url)
}

// reachable waits until somebody listens at an address of the machine.
func (u *user) reachable(address string) {
	u.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		c, err := u.m.NS.Dial(u.t.Context(), "tcp", address)
		if err == nil {
			_ = c.Close()
			return
		}
		if time.Now().After(deadline) {
			u.t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond) // a socket that begins to listen tells nobody
	}
}

func TestRunAndExpose(t *testing.T) {
	t.Parallel()
	u := newUser(t)
	out := u.feed("from the terminal\n", "run", "once", "--image=busybox:1", "--restart=Never", "--rm", "-i", "--quiet", "--", "sh", "-c", "read line; echo I read: $line")
	has(t, out, "I read: from the terminal")
	has(t, u.refused("get", "pod", "once"), "NotFound")
	like(t, u.kubectl("run", "web", "--image=nginx:1.15", "--port=80", "--labels=app=web", "--env=A=b"), `pod/web created`)
	u.await("pod/web", "condition=Ready")
	like(t, u.kubectl("expose", "pod", "web", "--port=8080", "--target-port=80"), `service/web exposed`)
	u.says("10.", "get", "endpointslices", "-l", "kubernetes.io/service-name=web", "-o", "jsonpath={.items[*].endpoints[*].addresses[0]}")
	u.says("80", "get", "endpoints", "web", "-o", "jsonpath={.subsets[0].ports[0].port}")
	u.kubectl("create", "deployment", "many", "--image=busybox:1", "--replicas=0", "--port=5000")
	like(t, u.kubectl("expose", "deployment", "many", "--type=NodePort", "--name=other"), `service/other exposed`)
	like(t, u.kubectl("get", "svc", "other", "--no-headers"), `other NodePort \S+ <none> 5000:3\d{4}/TCP \S+`)
}

// TestPodReachable: from the machine, and from another pod.
func TestPodReachable(t *testing.T) {
	t.Parallel()
	u := newUser(t)
	u.kubectl("run", "web", "--image=nginx:1.15")
	u.pod("client", "sleep 3600")
	u.await("pod/web", "condition=Ready")
	ip := strings.TrimSpace(u.kubectl("get", "pod", "web", "-o", "jsonpath={.status.podIP}"))
	if net.ParseIP(ip) == nil {
		t.Fatalf("the pod's address is %q", ip)
	}
	has(t, u.fetchPatiently("http://"+ip+":80"), "nginx 1.15")
	has(t, u.kubectl("exec", "client", "--", "wget", "-qO-", "http://"+ip), "nginx 1.15")
	// through the API server
	has(t, u.kubectl("get", "--raw", "/api/v1/namespaces/"+u.ns+"/pods/web:80/proxy/"), "nginx 1.15")
}
