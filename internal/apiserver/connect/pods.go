package connect

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/wsstream"

	"github.com/celox/celox/internal/apiserver/request"
)

var podsResource = schema.GroupResource{Resource: "pods"}

// maxErrorText bounds what is read of a node's error.
const maxErrorText = 2 << 10

// containerOf returns the container that a request means: the named one, or the only one.
func containerOf(pod *corev1.Pod, name string) (string, error) {
	var containers, initContainers, ephemeral []string
	for i := range pod.Spec.Containers {
		containers = append(containers, pod.Spec.Containers[i].Name)
	}
	for i := range pod.Spec.InitContainers {
		initContainers = append(initContainers, pod.Spec.InitContainers[i].Name)
	}
	for i := range pod.Spec.EphemeralContainers {
		ephemeral = append(ephemeral, pod.Spec.EphemeralContainers[i].Name)
	}
	if name != "" {
		if !slices.Contains(containers, name) && !slices.Contains(initContainers, name) && !slices.Contains(ephemeral, name) {
			return "", apierrors.NewBadRequest(fmt.Sprintf("container %s is not valid for pod %s", name, pod.Name))
		}
		return name, nil
	}
	switch len(containers) {
	case 1:
		return containers[0], nil
	case 0:
		return "", apierrors.NewBadRequest("a container name must be specified for pod " + pod.Name)
	}
	text := fmt.Sprintf("a container name must be specified for pod %s, choose one of: %s", pod.Name, containers)
	if len(initContainers) > 0 {
		text += fmt.Sprintf(" or one of the init containers: %s", initContainers)
	}
	if len(ephemeral) > 0 {
		text += fmt.Sprintf(" or one of the ephemeral containers: %s", ephemeral)
	}
	return "", apierrors.NewBadRequest(text)
}

// nodeOf finds the way to the node of a pod. An unknown node is told as upstream does, in the words of the request.
func (c *Connector) nodeOf(r *http.Request, pod *corev1.Pod) (way, error) {
	w, err := c.wayTo(r.Context(), pod.Spec.NodeName)
	if apierrors.IsNotFound(err) {
		err = apierrors.NewNotFound(podsResource, pod.Spec.NodeName)
	}
	return w, err
}

func (c *Connector) log(w http.ResponseWriter, r *http.Request, info *request.Info) error {
	o, err := logOptions(r.URL.Query())
	if err != nil {
		return err
	}
	pod, err := c.objects.Pod(r.Context(), info.Namespace, info.Name)
	if err != nil {
		return err
	}
	if errs := validateLogOptions(o); len(errs) > 0 {
		return apierrors.NewInvalid(schema.GroupKind{Kind: "PodLogOptions"}, info.Name, errs)
	}
	container, err := containerOf(pod, o.Container)
	if err != nil {
		return err
	}
	if pod.Spec.NodeName == "" {
		// Nothing was ever written.
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	node, err := c.nodeOf(r, pod)
	if err != nil {
		return err
	}
	target := node.base.JoinPath("containerLogs", pod.Namespace, pod.Name, container)
	target.RawQuery = logQuery(o).Encode()
	if wsstream.IsWebSocketRequest(r) {
		return logSocket(w, r, node.transport, target, info.Name)
	}
	return c.forward(w, r, node.transport, target, func(resp *http.Response) error { return checkLogResponse(resp, r.Method, info.Name) })
}

// logSocket sends a log as messages of a WebSocket: an empty one first, then whatever comes, until the log or the client ends.
func logSocket(w http.ResponseWriter, r *http.Request, t http.RoundTripper, target *url.URL, name string) error {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return err
	}
	resp, err := t.RoundTrip(req)
	if err != nil {
		return apierrors.NewInternalError(fmt.Errorf("error dialing backend: %w", err))
	}
	defer resp.Body.Close()
	if err := checkLogResponse(resp, r.Method, name); err != nil {
		return err
	}
	// From here on the connection is the WebSocket's: there is nobody to tell of an error.
	// (The copy would drop what is read together with the end: a buffer gives them one after the other.)
	_ = wsstream.NewReader(bufio.NewReader(resp.Body), true, wsstream.NewDefaultReaderProtocols()).Copy(w, r)
	return nil
}

// checkLogResponse turns a node's error, which is plain text, into one of the API.
func checkLogResponse(resp *http.Response, method, name string) error {
	if resp.StatusCode >= http.StatusOK && resp.StatusCode <= http.StatusPartialContent {
		// A browser must not guess that a log is a page.
		resp.Header.Set("Content-Type", "text/plain")
		return nil
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxErrorText))
	if err != nil {
		return err
	}
	text := strings.TrimSuffix(string(data), "\n")
	switch resp.StatusCode {
	case http.StatusInternalServerError:
		return apierrors.NewInternalError(errors.New(text))
	case http.StatusBadRequest:
		return apierrors.NewBadRequest(text)
	}
	return apierrors.NewGenericServerResponse(resp.StatusCode, method, podsResource, name, text, 0, false)
}

// forward hands a request on to target. An error is what the client has to be told. Check may refuse the answer with an error for the client.
func (c *Connector) forward(w http.ResponseWriter, r *http.Request, t http.RoundTripper, target *url.URL, check func(*http.Response) error) error {
	var failed error
	p := &httputil.ReverseProxy{
		Transport:      t,
		FlushInterval:  -1,
		ModifyResponse: check,
		Rewrite: func(p *httputil.ProxyRequest) {
			p.Out.URL = target
			p.Out.Host = target.Host
			p.SetXForwarded()
			p.Out.Header.Del("Authorization")
		},
		ErrorHandler: func(_ http.ResponseWriter, _ *http.Request, err error) {
			var known apierrors.APIStatus
			if !errors.As(err, &known) {
				err = apierrors.NewInternalError(fmt.Errorf("error dialing backend: %w", err))
			}
			failed = err
		},
	}
	p.ServeHTTP(w, r)
	return failed
}

// command serves exec and attach.
func (c *Connector) command(w http.ResponseWriter, r *http.Request, info *request.Info, verb string) error {
	if err := c.mayOpen(r.Context(), info); err != nil {
		return err
	}
	o := execOptions(r.URL.Query())
	if verb == "attach" {
		// Attach takes all options of exec but the command.
		o.Command = nil
	}
	pod, err := c.objects.Pod(r.Context(), info.Namespace, info.Name)
	if err != nil {
		return err
	}
	container, err := containerOf(pod, o.Container)
	if err != nil {
		return err
	}
	if pod.Spec.NodeName == "" {
		return apierrors.NewBadRequest(fmt.Sprintf("pod %s does not have a host assigned", info.Name))
	}
	if o.TTY {
		o.Stderr = false // a terminal has one output
	}
	if !o.Stdin && !o.Stdout && !o.Stderr {
		return apierrors.NewBadRequest("you must specify at least 1 of stdin, stdout, stderr")
	}
	if !httpstream.IsUpgradeRequest(r) {
		return apierrors.NewBadRequest("Upgrade request required")
	}
	node, err := c.nodeOf(r, pod)
	if err != nil {
		return err
	}
	target := node.base.JoinPath(verb, pod.Namespace, pod.Name, container)
	q := url.Values{}
	for name, set := range map[string]bool{corev1.ExecStdinParam: o.Stdin, corev1.ExecStdoutParam: o.Stdout, corev1.ExecStderrParam: o.Stderr, corev1.ExecTTYParam: o.TTY} {
		if set {
			q.Set(name, "1")
		}
	}
	for _, word := range o.Command {
		q.Add(corev1.ExecCommandParam, word)
	}
	target.RawQuery = q.Encode()
	if wsstream.IsWebSocketRequestWithStreamCloseProtocol(r) {
		return translate(w, r, node, target, o)
	}
	return c.forward(w, r, node.transport, target, nil)
}

func (c *Connector) portForward(w http.ResponseWriter, r *http.Request, info *request.Info) error {
	if err := c.mayOpen(r.Context(), info); err != nil {
		return err
	}
	ports, err := portOptions(r.URL.Query())
	if err != nil {
		return err
	}
	pod, err := c.objects.Pod(r.Context(), info.Namespace, info.Name)
	if err != nil {
		return err
	}
	if pod.Spec.NodeName == "" {
		return apierrors.NewBadRequest(fmt.Sprintf("pod %s does not have a host assigned", info.Name))
	}
	if !httpstream.IsUpgradeRequest(r) {
		return apierrors.NewBadRequest("Upgrade request required")
	}
	node, err := c.nodeOf(r, pod)
	if err != nil {
		return err
	}
	target := node.base.JoinPath("portForward", pod.Namespace, pod.Name)
	q := url.Values{}
	for _, port := range ports {
		q.Add("port", fmt.Sprint(port))
	}
	target.RawQuery = q.Encode()
	if wsstream.IsWebSocketRequestWithTunnelingProtocol(r) {
		return tunnel(w, r, node, target)
	}
	return c.forward(w, r, node.transport, target, nil)
}

// echo passes on an answer that is no stream.
func echo(w http.ResponseWriter, resp *http.Response) {
	defer resp.Body.Close()
	for _, name := range []string{"Content-Type", "X-Accepted-Stream-Protocol-Versions"} {
		if v := resp.Header[name]; len(v) > 0 {
			w.Header()[name] = v
		}
	}
	var body bytes.Buffer
	_, _ = io.Copy(&body, io.LimitReader(resp.Body, maxErrorText)) // what came is told
	w.WriteHeader(resp.StatusCode)
	_, _ = w.Write(body.Bytes()) // a client that left
}
