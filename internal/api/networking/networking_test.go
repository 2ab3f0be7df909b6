package networking_test

import (
	"testing"
	"time"

	extensionsv1beta1 "k8s.io/api/extensions/v1beta1"
	networkingv1 "k8s.io/api/networking/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/celox/celox/internal/api/apitest"
	"github.com/celox/celox/internal/api/networking"
)

func TestIngress(t *testing.T) {
	const backend = "backend: {service: {name: s, port: {number: 80}}}"
	rule := func(path string) string { return "spec: {rules: [{host: a.b, http: {paths: [{" + path + "}]}}]}" }
	apitest.Check(t, networking.Kinds(), "Ingress", []apitest.Case{
		{"nothing", "spec: {}", "spec: Invalid value: null: either `defaultBackend` or `rules` must be specified"},
		{"default", "spec: {defaultBackend: {service: {name: s, port: {name: http}}}}", ""},
		{"a path", rule("path: /a, pathType: Prefix, " + backend), ""},
		{"no type", rule("path: /a, " + backend), "spec.rules[0].http.paths[0].pathType: Required value: pathType must be specified"},
		{"unknown type", rule("path: /a, pathType: Regex, " + backend), `pathType: Unsupported value: "Regex": supported values: "Exact", "ImplementationSpecific", "Prefix"`},
		{"relative", rule("path: a, pathType: Exact, " + backend), `path: Invalid value: "a": must be an absolute path`},
		{"not clean", rule("path: /a//b/.., pathType: Exact, " + backend), "must not contain '//'\ncannot end with '/..'"},
		{"no backend", rule("path: /a, pathType: Exact, backend: {}"), "backend: Invalid value: \"\": resource or service backend is required"},
		{"two backends", rule("path: /a, pathType: Exact, backend: {service: {name: s}, resource: {kind: A, name: b}}"), "cannot set both resource and service backends"},
		{"no port", rule("path: /a, pathType: Exact, backend: {service: {name: s}}"), "backend: Required value: port name or number is required"},
		{"two ports", rule("path: /a, pathType: Exact, backend: {service: {name: s, port: {name: a, number: 1}}}"), "cannot set both port name & port number"},
		{"an address as host", "spec: {rules: [{host: 1.2.3.4}]}", "spec.rules[0].host: Invalid value: \"1.2.3.4\": must be a DNS name, not an IP address"},
		{"wildcards", "spec: {rules: [{host: '*.a.b'}, {host: 'a.*'}]}", "spec.rules[1].host: Invalid value: \"a.*\": a wildcard DNS-1123 subdomain must start with '*.'"},
		{"tls", "spec: {rules: [{host: a.b}], tls: [{hosts: ['A'], secretName: B}]}", "spec.tls[0].hosts[0]: Invalid value\nspec.tls[0].secretName: Invalid value"},
		{"two classes", "metadata: {annotations: {kubernetes.io/ingress.class: a}}\nspec: {ingressClassName: b, rules: [{host: a.b}]}", "must match `ingressClassName` when both are specified"},
		{"an old one", "apiVersion: extensions/v1beta1\nspec: {backend: {serviceName: s, servicePort: 80}, rules: [{http: {paths: [{backend: {serviceName: s, servicePort: http}}]}}]}", ""},
	})
}

// TestOldIngress: an ingress reads and writes the same in its old form.
func TestOldIngress(t *testing.T) {
	c := apitest.Catalogue(t, networking.Kinds())
	for _, gv := range []schema.GroupVersion{{Group: "extensions", Version: "v1beta1"}, {Group: "networking.k8s.io", Version: "v1beta1"}} {
		k, v, ok := c.ByResource(gv.WithResource("ingresses"))
		if !ok {
			t.Fatalf("no ingresses in %s", gv)
		}
		in := apitest.Read(t, c, k, "apiVersion: "+gv.String()+`
metadata: {name: i}
spec:
  ingressClassName: nginx
  backend: {serviceName: d, servicePort: 80}
  tls: [{hosts: [a.b], secretName: s}]
  rules: [{host: a.b, http: {paths: [{path: /x, backend: {serviceName: s, servicePort: http}}, {path: /y, pathType: Exact, backend: {resource: {kind: K, name: x}}}]}}]
status: {loadBalancer: {ingress: [{ip: 1.2.3.4}]}}
`).(*networkingv1.Ingress)
		paths := in.Spec.Rules[0].HTTP.Paths
		if p := paths[0]; *p.PathType != networkingv1.PathTypeImplementationSpecific || p.Backend.Service.Port.Name != "http" {
			t.Errorf("%s: first path %+v", gv, p)
		}
		if b := in.Spec.DefaultBackend.Service; b.Name != "d" || b.Port.Number != 80 || *in.Spec.IngressClassName != "nginx" {
			t.Errorf("%s: default %+v", gv, b)
		}
		if got := paths[1].Backend; got.Service != nil || got.Resource.Name != "x" || in.Status.LoadBalancer.Ingress[0].IP != "1.2.3.4" {
			t.Errorf("%s: second path %+v", gv, got)
		}
		out, err := c.FromHub(k, v, in)
		if err != nil {
			t.Fatal(err)
		}
		if old, ok := out.(*extensionsv1beta1.Ingress); ok && old.Spec.Rules[0].HTTP.Paths[0].Backend.ServicePort.String() != "http" {
			t.Errorf("written as %+v", old.Spec)
		}
		back, err := c.ToHub(k, v, out)
		if err != nil {
			t.Fatal(err)
		}
		if !apiequality.Semantic.DeepEqual(back.(*networkingv1.Ingress).Spec, in.Spec) {
			t.Errorf("%s: came back as %+v", gv, back)
		}
	}
}

func TestNetworkPolicy(t *testing.T) {
	peer := func(s string) string { return "spec: {podSelector: {}, ingress: [{from: [" + s + "]}]}" }
	port := func(s string) string { return "spec: {podSelector: {}, egress: [{ports: [" + s + "]}]}" }
	apitest.Check(t, networking.Kinds(), "NetworkPolicy", []apitest.Case{
		{"all pods", "spec: {podSelector: {}}", ""},
		{"an old one", "apiVersion: extensions/v1beta1\nspec: {podSelector: {}}", ""},
		{"nobody", peer("{}"), "spec.ingress[0].from[0]: Required value: must specify a peer"},
		{"two peers", peer("{podSelector: {}, ipBlock: {cidr: 10.0.0.0/8}}"), "spec.ingress[0].from[0]: Forbidden: may not specify both ipBlock and another peer"},
		{"pods of namespaces", peer("{podSelector: {}, namespaceSelector: {}}"), ""},
		{"no block", peer("{ipBlock: {cidr: ten}}"), "spec.ingress[0].from[0].ipBlock.cidr: Invalid value: \"ten\""},
		{"a block with zeros in front, and an exception outside", peer("{ipBlock: {cidr: 010.0.0.0/8, except: [11.0.0.0/16]}}"), "ipBlock.cidr: Invalid value: \"010.0.0.0/8\"\nipBlock.except[0]: Invalid value: \"11.0.0.0/16\": must be a strict subset"},
		{"an exception with zeros in front", peer("{ipBlock: {cidr: 10.0.0.0/8, except: [011.0.0.0/16]}}"), "ipBlock.except[0]: Invalid value: \"011.0.0.0/16\"\nipBlock.except[0]: Invalid value: \"011.0.0.0/16\": must be a strict subset"},
		{"an exception outside", peer("{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/16]}}"), "ipBlock.except[0]: Invalid value: \"11.0.0.0/16\": must be a strict subset of `cidr`"},
		{"a range", port("{port: 80, endPort: 90}"), ""},
		{"a range backwards", port("{port: 80, endPort: 70}"), "must be greater than or equal to `port`"},
		{"a range of a name", port("{port: http, endPort: 70}"), "may not be specified when `port` is non-numeric"},
		{"a range from nowhere", port("{endPort: 70}"), "may not be specified when `port` is not specified"},
		{"protocol", port("{protocol: ICMP}"), `protocol: Unsupported value: "ICMP": supported values: "TCP", "UDP", "SCTP"`},
		{"types", "spec: {podSelector: {}, policyTypes: [Sideways]}", "spec.policyTypes[0]: Unsupported value"},
	})
	c := apitest.Catalogue(t, networking.Kinds())
	n := apitest.Read(t, c, apitest.Kind(t, c.Kinds(), "NetworkPolicy"), port("{port: 80}")).(*networkingv1.NetworkPolicy)
	if len(n.Spec.PolicyTypes) != 2 || *n.Spec.Egress[0].Ports[0].Protocol != "TCP" {
		t.Errorf("defaults %+v", n.Spec)
	}
}

func TestAddresses(t *testing.T) {
	apitest.Check(t, networking.Kinds(), "ServiceCIDR", []apitest.Case{
		{"one", "spec: {cidrs: [10.0.0.0/16]}", ""},
		{"both families", "spec: {cidrs: [10.0.0.0/16, 'fd00::/112']}", ""},
		{"none", "spec: {}", "spec.cidrs: Required value: at least one CIDR required"},
		{"one family twice", "spec: {cidrs: [10.0.0.0/16, 10.1.0.0/16]}", "may specify no more than one IP for each IP family"},
		{"three", "spec: {cidrs: [10.0.0.0/16, 10.1.0.0/16, 10.2.0.0/16]}", "may only hold up to 2 values"},
		{"no block", "spec: {cidrs: [ten]}", "spec.cidrs[0]: Invalid value: \"ten\""},
	})
	apitest.Check(t, networking.Kinds(), "IPAddress", []apitest.Case{
		{"of a service", "metadata: {name: 10.0.0.1}\nspec: {parentRef: {resource: services, name: a, namespace: b}}", ""},
		{"of nobody", "metadata: {name: 10.0.0.1}\nspec: {}", "spec.parentRef: Required value"},
	})
	apitest.Check(t, networking.Kinds(), "IngressClass", []apitest.Case{
		{"minimal", "spec: {controller: a.b/c}", ""},
		{"no controller", "spec: {}", "spec.controller: Required value"},
		{"a controller without a domain", "spec: {controller: a}", "spec.controller: Invalid value: \"a\": must be a domain-prefixed path"},
		{"parameters of a namespace", "spec: {controller: a.b/c, parameters: {kind: A, name: b, scope: Namespace}}", "spec.parameters.namespace: Required value"},
		{"parameters of a namespace without a name", "spec: {controller: a.b/c, parameters: {kind: A, name: b, scope: Namespace, namespace: ''}}", "spec.parameters.namespace: Invalid value: \"\": a lowercase RFC 1123 label"},
		{"parameters of the cluster", "spec: {controller: a.b/c, parameters: {kind: A, name: b, namespace: c}}", "spec.parameters.namespace: Forbidden"},
	})
}

func TestRows(t *testing.T) {
	c := apitest.Catalogue(t, networking.Kinds())
	for _, x := range []struct{ kind, doc, want string }{
		{"Ingress", "metadata: {name: a}\nspec: {rules: [{host: a}, {host: b}, {host: c}, {host: d}], tls: [{}]}\nstatus: {loadBalancer: {ingress: [{ip: 1.2.3.4}, {hostname: h}, {ip: 1.2.3.4}]}}",
			"a|<none>|a,b,c + 1 more...|1.2.3.4,h|80, 443|<unknown>"},
		{"Ingress", "metadata: {name: a}\nspec: {ingressClassName: nginx, rules: [{}]}", "a|nginx|*||80|<unknown>"},
		{"NetworkPolicy", "metadata: {name: a}\nspec: {podSelector: {matchLabels: {a: b}}}", "a|a=b|<unknown>"},
		{"ServiceCIDR", "metadata: {name: a}\nspec: {cidrs: [10.0.0.0/16, 'fd00::/112']}", "a|10.0.0.0/16,fd00::/112|<unknown>"},
	} {
		k := apitest.Kind(t, c.Kinds(), x.kind)
		if got := apitest.Row(k, apitest.Read(t, c, k, x.doc), time.Now()); got != x.want {
			t.Errorf("%s is shown as\n%s, want\n%s", x.doc, got, x.want)
		}
	}
}

// TestUnchanged: the addresses of a cluster stay where they are.
func TestUnchanged(t *testing.T) {
	cidrs := func(s string) string { return "metadata: {name: a}\nspec: {cidrs: [" + s + "]}" }
	apitest.CheckChanges(t, networking.Kinds(), "ServiceCIDR", "", []apitest.Change{
		{"another", cidrs("10.0.0.0/16"), cidrs("ten"), "spec.cidrs[0]: Invalid value: \"ten\": field is immutable"},
		{"a second", cidrs("10.0.0.0/16"), cidrs("10.0.0.0/16, ten"), "spec.cidrs[1]: Invalid value: \"ten\": must be a valid CIDR value"},
		{"one less", cidrs("10.0.0.0/16, 'fd00::/112'"), cidrs("10.0.0.0/16"), "spec.cidrs: Invalid value: [\"10.0.0.0/16\"]: field is immutable"},
	})
	parent := func(name string) string {
		return "metadata: {name: 10.0.0.1}\nspec: {parentRef: {resource: services, namespace: n, name: " + name + "}}"
	}
	apitest.CheckChanges(t, networking.Kinds(), "IPAddress", "", []apitest.Change{
		{"another owner", parent("a"), parent("b"), "spec.parentRef: Invalid value: null: field is immutable"},
	})
}

// TestStoredBefore: what an older server took does not stand in the way of other changes, but comes in no more.
func TestStoredBefore(t *testing.T) {
	const rules = "rules: [{host: a.b}]"
	apitest.CheckChanges(t, networking.Kinds(), "Ingress", "", []apitest.Change{
		{"the name of a secret", "spec: {" + rules + ", tls: [{secretName: A_b}]}", "spec: {" + rules + ", tls: [{secretName: A_b}, {secretName: C_d}]}", ""},
		{"a new one", "spec: {" + rules + "}", "spec: {" + rules + ", tls: [{secretName: A_b}]}", "spec.tls[0].secretName: Invalid value"},
	})
	apitest.CheckChanges(t, networking.Kinds(), "IPAddress", "", []apitest.Change{
		{"no parent", "metadata: {name: 10.0.0.1}\nspec: {}", "metadata: {name: 10.0.0.1}\nspec: {}", "spec.parentRef: Required value"},
		{"another parent", "metadata: {name: 10.0.0.1}\nspec: {parentRef: {resource: services, name: a}}", "metadata: {name: 10.0.0.1}\nspec: {parentRef: {resource: services, name: b}}",
			"spec.parentRef: Invalid value"},
	})
}
