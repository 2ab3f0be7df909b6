package apiserver

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/celox/celox/internal/apiserver/admission"
	"github.com/celox/celox/internal/apiserver/admission/policy"
	"github.com/celox/celox/internal/apiserver/request"
)

// admitConnect asks admission whether a stream or a proxied request may go on. What it makes of the options takes the place of the
// query. Logs are read, not connected to.
func (x *exchange) admitConnect(sub *subresource) error {
	if sub.Name == "log" {
		return nil
	}
	options := connectOptions(x.res.kind.Kind, sub.Name, x.params(), x.info.Parts)
	if options == nil {
		return nil
	}
	kind := corev1.SchemeGroupVersion.WithKind(strings.TrimPrefix(fmt.Sprintf("%T", options), "*v1."))
	options.GetObjectKind().SetGroupVersionKind(kind)
	a := x.attributes(admission.Connect, options, nil, false)
	a.Kind, a.Name = kind, x.info.Name
	before, path := queryOf(options), pathOf(options)
	if err := x.s.cfg.Admission.Admit(x.ctx, a); err != nil {
		return err
	}
	if err := x.s.cfg.Admission.Validate(x.ctx, a); err != nil {
		return err
	}
	if after := queryOf(options); before.Encode() != after.Encode() {
		r := x.r.Clone(x.r.Context())
		r.URL.RawQuery = after.Encode()
		x.r, x.query = r, nil
	}
	if after := pathOf(options); path != after {
		own := "/" + strings.Join([]string{x.info.Resource, x.info.Name, "proxy"}, "/")
		r := x.r.Clone(x.r.Context())
		head, _, _ := strings.Cut(r.URL.Path, own)
		r.URL.Path, r.URL.RawPath = head+own+"/"+strings.TrimPrefix(after, "/"), ""
		x.r = r
	}
	return nil
}

// pathOf is the path that a request is passed on to; "" for streams.
func pathOf(o runtime.Object) string {
	switch o := o.(type) {
	case *corev1.PodProxyOptions:
		return o.Path
	case *corev1.ServiceProxyOptions:
		return o.Path
	case *corev1.NodeProxyOptions:
		return o.Path
	}
	return ""
}

// connectOptions reads what a stream is asked to be; nil for those that have no options.
func connectOptions(kind, sub string, q url.Values, parts []string) runtime.Object {
	on := func(name string) bool { return request.Truth(q[name]) }
	path := ""
	if len(parts) > 3 {
		path = "/" + strings.Join(parts[3:], "/")
	}
	switch {
	case sub == "exec":
		return &corev1.PodExecOptions{Stdin: on("stdin"), Stdout: on("stdout"), Stderr: on("stderr"), TTY: on("tty"), Container: q.Get("container"), Command: q["command"]}
	case sub == "attach":
		return &corev1.PodAttachOptions{Stdin: on("stdin"), Stdout: on("stdout"), Stderr: on("stderr"), TTY: on("tty"), Container: q.Get("container")}
	case sub == "portforward":
		o := &corev1.PodPortForwardOptions{}
		for _, list := range q["ports"] {
			for p := range strings.SplitSeq(list, ",") {
				if n, err := strconv.ParseInt(p, 10, 32); err == nil {
					o.Ports = append(o.Ports, int32(n))
				}
			}
		}
		return o
	case sub == "proxy" && kind == "Pod":
		return &corev1.PodProxyOptions{Path: path}
	case sub == "proxy" && kind == "Service":
		return &corev1.ServiceProxyOptions{Path: path}
	case sub == "proxy" && kind == "Node":
		return &corev1.NodeProxyOptions{Path: path}
	}
	return nil
}

// queryOf writes options as a query. A proxied request keeps its own.
func queryOf(o runtime.Object) url.Values {
	q := url.Values{}
	set := func(stdin, stdout, stderr, tty bool, container string) {
		for name, on := range map[string]bool{"stdin": stdin, "stdout": stdout, "stderr": stderr, "tty": tty} {
			if on {
				q.Set(name, "true")
			}
		}
		if container != "" {
			q.Set("container", container)
		}
	}
	switch o := o.(type) {
	case *corev1.PodExecOptions:
		set(o.Stdin, o.Stdout, o.Stderr, o.TTY, o.Container)
		q["command"] = o.Command
	case *corev1.PodAttachOptions:
		set(o.Stdin, o.Stdout, o.Stderr, o.TTY, o.Container)
	case *corev1.PodPortForwardOptions:
		for _, p := range o.Ports {
			q.Add("ports", strconv.Itoa(int(p)))
		}
	}
	return q
}

// ParamKind finds a custom kind for the parameters of admission policies.
func (s *Server) ParamKind(gvk schema.GroupVersionKind) (policy.Kind, bool) {
	served, _ := s.customs.Definitions(gvk.Group)
	for _, d := range served {
		v, ok := d.Served(gvk.Version)
		if !ok || v.Kind() != gvk {
			continue
		}
		r, err := s.findCustom(d.GroupResource().WithVersion(gvk.Version))
		if err != nil || r == nil {
			return policy.Kind{}, false
		}
		return policy.Kind{Objects: r.col, Namespaced: r.kind.Namespaced, Versions: r.shownAs}, true
	}
	return policy.Kind{}, false
}
