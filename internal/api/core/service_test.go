package core

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api/apitest"
)

func TestService(t *testing.T) {
	apitest.Check(t, Kinds(), "Service", []apitest.Case{
		{"plain", `spec: {ports: [{port: 80}]}`, ""},
		{"no ports", `spec: {}`, "spec.ports: Required value"},
		{"headless", `spec: {clusterIP: None, clusterIPs: [None]}`, ""},
		{"headless node port", `spec: {type: NodePort, clusterIP: None, clusterIPs: [None], ports: [{port: 1}]}`, "spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for NodePort services"},
		{"kubelet", `spec: {type: LoadBalancer, ports: [{port: 10250}]}`, "spec.ports[0]: Invalid value: 10250: may not expose port 10250 externally since it is used by kubelet"},
		{"external", `spec: {type: ExternalName, clusterIP: 1.1.1.1, clusterIPs: [1.1.1.1], ipFamilies: [IPv4], ipFamilyPolicy: SingleStack, externalName: "."}`,
			"spec.clusterIPs: Forbidden\nspec.ipFamilies: Forbidden\nspec.ipFamilyPolicy: Forbidden: may not be set for ExternalName services\nspec.externalName: Required value"},
		{"port names", `spec: {ports: [{name: a, port: 80}, {name: a, port: 81}, {port: 82}]}`, "spec.ports[1].name: Duplicate value: \"a\"\nspec.ports[2].name: Required value"},
		{"twice", `spec: {ports: [{name: a, port: 80}, {name: b, port: 80}]}`, `spec.ports[1]: Duplicate value: {"Name":"","Protocol":"TCP","AppProtocol":null,"Port":80,"TargetPort":0,"NodePort":0}`},
		{"node port of none", `spec: {ports: [{port: 80, nodePort: 31111}]}`, "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"},
		{"affinity", `spec: {sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 86401}}, ports: [{port: 80}]}`,
			"spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 86401: must be greater than 0 and less than 86400"},
		{"external addresses", `spec: {externalIPs: [127.0.0.1, x], ports: [{port: 80}]}`, "spec.externalIPs[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range\nspec.externalIPs[1]: Invalid value: \"x\": must be a valid IP address, (e.g."},
		{"unknown type", `spec: {type: Odd, ports: [{port: 80}]}`, `spec.type: Unsupported value: "Odd": supported values: "ClusterIP", "ExternalName", "LoadBalancer", "NodePort"`},
		{"only for balancers", `spec: {loadBalancerClass: "a b", loadBalancerSourceRanges: [1.2.3.0/24], allocateLoadBalancerNodePorts: true, healthCheckNodePort: 5, ports: [{port: 80}]}`,
			"spec.LoadBalancerSourceRanges: Forbidden\nspec.allocateLoadBalancerNodePorts: Forbidden\nspec.loadBalancerClass: Forbidden\nspec.healthCheckNodePort: Invalid value: 5"},
		{"ranges in an annotation", `{metadata: {annotations: {service.beta.kubernetes.io/load-balancer-source-ranges: "1.2.3.0/24, bad"}}, spec: {type: LoadBalancer, ports: [{port: 80}]}}`,
			`metadata.annotations[service.beta.kubernetes.io/load-balancer-source-ranges]: Invalid value: "bad": must be a valid CIDR value`},
		{"policies", `spec: {internalTrafficPolicy: Odd, externalTrafficPolicy: Local, trafficDistribution: Odd, ports: [{port: 80}]}`,
			"spec.externalTrafficPolicy: Invalid value: \"Local\": may only be set for externally-accessible services\nspec.internalTrafficPolicy: Unsupported value\n" +
				`spec.trafficDistribution: Unsupported value: "Odd": supported values: "PreferClose", "PreferSameZone", "PreferSameNode"`},
		{"hints", `{metadata: {annotations: {service.kubernetes.io/topology-mode: a, service.kubernetes.io/topology-aware-hints: b}}, spec: {ports: [{port: 80}]}}`,
			"metadata.annotations[service.kubernetes.io/topology-mode]: Invalid value: \"a\": must match annotations[service.kubernetes.io/topology-aware-hints] when both are specified"},
	})
}

func TestServiceAddresses(t *testing.T) {
	for _, x := range []struct{ name, doc, told string }{
		{"external", `spec: {type: ExternalName, clusterIPs: [x]}`, ""},
		{"only plural", `spec: {clusterIPs: [1.1.1.1]}`, "spec.clusterIPs: Invalid value: [\"1.1.1.1\"]: must be empty when `clusterIP` is not specified"},
		{"only singular", `spec: {clusterIP: 1.1.1.1}`, "spec.clusterIPs: Required value"},
		{"none and more", `spec: {clusterIP: None, clusterIPs: [None, 1.1.1.1]}`, `spec.clusterIPs: Invalid value: ["None","1.1.1.1"]: 'None' must be the first and only value`},
		{"one family", `spec: {clusterIP: 1.1.1.1, clusterIPs: [1.1.1.1, 1.1.1.2]}`, "may specify no more than one IP for each IP family"},
		{"other family", `spec: {clusterIP: 1.1.1.1, clusterIPs: [1.1.1.1], ipFamilies: [IPv6]}`, "spec.clusterIPs[0]: Invalid value: \"1.1.1.1\": expected an IPv6 value as indicated by `ipFamilies[0]`"},
		{"words", `spec: {ipFamilyPolicy: Odd, ipFamilies: [IPv4, IPv4]}`, "spec.ipFamilies[1]: Duplicate value: \"IPv4\"\nspec.ipFamilyPolicy: Unsupported value"},
	} {
		k, c := apitest.Kind(t, Kinds(), "Service"), apitest.Catalogue(t, Kinds())
		t.Run(x.name, func(t *testing.T) {
			checkLines(t, apitest.Text(ValidateServiceAddresses(apitest.Read(t, c, k, x.doc).(*corev1.Service), nil)), x.told)
		})
	}
}

func TestServiceUpdate(t *testing.T) {
	const one = `spec: {clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1], ipFamilies: [IPv4], ipFamilyPolicy: SingleStack, ports: [{port: 80}]}`
	const two = `spec: {clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1, "fd00::1"], ipFamilies: [IPv4, IPv6], ipFamilyPolicy: PreferDualStack, ports: [{port: 80}]}`
	checkUpdates(t, "Service", []change{
		{"same", one, one, ""},
		{"second family", one, two, ""},
		{"other address", one, `spec: {clusterIP: 10.0.0.2, clusterIPs: [10.0.0.2], ipFamilies: [IPv4], ports: [{port: 80}]}`, `spec.clusterIPs[0]: Invalid value: ["10.0.0.2"]: may not change once set`},
		{"no second family", two, `spec: {clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1], ipFamilies: [IPv4], ipFamilyPolicy: PreferDualStack, ports: [{port: 80}]}`,
			"spec.ipFamilyPolicy: Invalid value: \"PreferDualStack\": must be set to 'SingleStack' when releasing the secondary clusterIP\nspec.ipFamilyPolicy: Invalid value: \"PreferDualStack\": must be set to 'SingleStack' when releasing the secondary ipFamily"},
		{"class", `spec: {type: LoadBalancer, loadBalancerClass: a/b, ports: [{port: 80}]}`, `spec: {type: LoadBalancer, loadBalancerClass: other, ports: [{port: 80}]}`, `spec.loadBalancerClass: Invalid value: "other": may not change once set`},
	})
	k, c := apitest.Kind(t, Kinds(), "Service"), apitest.Catalogue(t, Kinds())
	old := apitest.Read(t, c, k, `{spec: {type: LoadBalancer, ports: [{port: 80}]}, status: {loadBalancer: {ingress: [{ip: 1.1.1.1}]}}}`)
	now := apitest.Read(t, c, k, one)
	if k.PrepareForUpdate(now, old); len(now.(*corev1.Service).Status.LoadBalancer.Ingress) > 0 {
		t.Error("the load balancer's address stayed")
	}
}

func TestServiceStatus(t *testing.T) {
	k, c := apitest.Kind(t, Kinds(), "Service"), apitest.Catalogue(t, Kinds())
	for _, x := range []struct{ doc, told string }{
		{`{status: {loadBalancer: {ingress: [{ip: 1.1.1.1}]}}}`, "status.loadBalancer.ingress: Forbidden: may only be used when `spec.type` is 'LoadBalancer'"},
		{`{spec: {type: LoadBalancer}, status: {loadBalancer: {ingress: [{ip: 1.1.1.1}, {hostname: a.b}]}}}`, ""},
		{`{spec: {type: LoadBalancer}, status: {loadBalancer: {ingress: [{ip: x}, {hostname: 1.2.3.4}, {ip: 1.2.3.4, ipMode: Odd}, {ipMode: VIP}]}}}`,
			"ingress[0].ip: Invalid value: \"x\"\ningress[1].hostname: Invalid value: \"1.2.3.4\": must be a DNS name, not an IP address\n" +
				"ingress[2].ipMode: Unsupported value: \"Odd\": supported values: \"Proxy\", \"VIP\"\ningress[3].ipMode: Forbidden: may not be specified when `ip` is not set"},
	} {
		s := apitest.Read(t, c, k, x.doc)
		checkLines(t, apitest.Text(k.ValidateStatusUpdate(s, &corev1.Service{})), x.told)
	}
}

func TestServiceWarnings(t *testing.T) {
	checkWarnings(t, "Service", `spec: {trafficDistribution: PreferClose, externalIPs: ["5.5.5.5"], externalName: x}`,
		"spec.externalIPs is deprecated and may no longer be implemented in some clusters",
		`spec.externalName is ignored when spec.type is not "ExternalName"`, `spec.trafficDistribution: "PreferClose" is deprecated; use "PreferSameZone"`)
	checkWarnings(t, "Service", `spec: {clusterIP: None, clusterIPs: [None], sessionAffinity: ClientIP}`, "spec.SessionAffinity is ignored for headless services")
	checkWarnings(t, "Service", `spec: {clusterIP: None, clusterIPs: [None], externalIPs: ["5.5.5.5"]}`, "spec.externalIPs is ignored for headless services")
}

func TestServiceRow(t *testing.T) {
	for doc, want := range map[string]string{
		`{metadata: {name: s}, spec: {clusterIP: 1.1.1.1, clusterIPs: [1.1.1.1], selector: {a: b}, ports: [{port: 80}, {port: 53, protocol: UDP, nodePort: 30000}]}}`: "s|ClusterIP|1.1.1.1|<none>|80/TCP,53:30000/UDP|<unknown>|a=b",
		`{metadata: {name: s}, spec: {type: ExternalName, externalName: a.b}}`:                                                                                        "s|ExternalName|<none>|a.b|<none>|<unknown>|<none>",
		`{metadata: {name: s}, spec: {type: LoadBalancer}}`:                                                                                                           "s|LoadBalancer|<none>|<pending>|<none>|<unknown>|<none>",
		`{metadata: {name: s}, spec: {type: LoadBalancer, externalIPs: [9.9.9.9]}, status: {loadBalancer: {ingress: [{hostname: b}, {ip: 1.1.1.1}, {ip: 1.1.1.1}]}}}`: "s|LoadBalancer|<none>|1.1.1.1,b,9.9.9.9|<none>|<unknown>|<none>",
	} {
		checkRow(t, "Service", doc, want)
	}
}

// FuzzSpecialIP: whatever is called an address, judging it is no crash, and an ordinary one passes.
func FuzzSpecialIP(f *testing.F) {
	for _, s := range []string{"1.2.3.4", "::1", "", "fe80::1%eth0", "::ffff:127.0.0.1", "010.1.1.1"} {
		f.Add(s)
	}
	f.Fuzz(func(_ *testing.T, s string) { notSpecialIP(s, field.NewPath("ip")) })
}
