package apiserver

import (
	"context"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"pgregory.net/rapid"

	"github.com/celox/celox/internal/store"
)

// Whatever is done to services, and however it fails: no two have the same address or port, nothing that no service has is taken, and
// what is free can be had.
func TestServicesLeakNothing(outer *testing.T) {
	s := newServer(outer)
	h := s.Handler()
	const services = "/api/v1/namespaces/n/services"
	rapid.Check(outer, func(t *rapid.T) {
		name := func() string { return fmt.Sprint("s", rapid.IntRange(0, 5).Draw(t, "name")) }
		spec := func() string {
			out := `"type":"` + rapid.SampledFrom([]string{"ClusterIP", "NodePort", "LoadBalancer", "ExternalName"}).Draw(t, "type") + `"`
			switch rapid.IntRange(0, 4).Draw(t, "address") {
			case 0:
				out += `,"clusterIP":"None"`
			case 1:
				out += fmt.Sprintf(`,"clusterIP":"10.96.0.%d"`, rapid.IntRange(0, 12).Draw(t, "ip"))
			}
			port := rapid.SampledFrom([]int{80, 81, 0, 70000}).Draw(t, "port") // the last two are refused by validation
			node := rapid.SampledFrom([]int{0, 0, 0, 30001, 30002, 80}).Draw(t, "node port")
			out += fmt.Sprintf(`,"ports":[{"port":%d,"nodePort":%d}]`, port, node)
			if rapid.IntRange(0, 3).Draw(t, "external") == 0 {
				out += `,"externalName":"a.b","externalTrafficPolicy":"Local"`
			}
			return out
		}
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			query := rapid.SampledFrom([]string{"", "", "?dryRun=All"}).Draw(t, "query")
			switch rapid.IntRange(0, 3).Draw(t, "step") {
			case 0:
				call(outer, h, "POST", services+query, `{"metadata":{"name":"`+name()+`"},"spec":{`+spec()+`}}`)
			case 1:
				n := name()
				call(outer, h, "PUT", services+"/"+n+query, `{"metadata":{"name":"`+n+`"},"spec":{`+spec()+`}}`)
			case 2:
				call(outer, h, "PATCH", services+"/"+name()+query, `{"spec":{`+spec()+`}}`, "Content-Type", "application/merge-patch+json")
			case 3:
				call(outer, h, "DELETE", services+"/"+name()+query, "")
			}
			if s.services.pool.Claimed() != 0 {
				t.Fatalf("%d claims are left", s.services.pool.Claimed())
			}
			all, err := s.services.col.List(context.Background(), store.ListOptions{})
			if err != nil {
				t.Fatal(err)
			}
			taken := map[string]string{}
			claim := func(what, who string) {
				if other := taken[what]; other != "" && other != who {
					t.Fatalf("%s and %s both have %s", other, who, what)
				}
				taken[what] = who
			}
			for _, item := range all.Items {
				svc := item.Object.(*corev1.Service)
				for _, ip := range svc.Spec.ClusterIPs {
					if ip != corev1.ClusterIPNone {
						claim(ip, svc.Name)
					}
				}
				for _, p := range svc.Spec.Ports {
					// An ExternalName service keeps what somebody wrote there, as upstream does, and it means nothing.
					if p.NodePort != 0 && svc.Spec.Type != corev1.ServiceTypeExternalName {
						claim(fmt.Sprint("port ", p.NodePort), svc.Name)
					}
				}
				if n := svc.Spec.HealthCheckNodePort; n != 0 {
					claim(fmt.Sprint("port ", n), svc.Name)
				}
			}
			for i := 2; i <= 12; i++ {
				ip := fmt.Sprint("10.96.0.", i)
				w := call(outer, h, "POST", services+"?dryRun=All", `{"metadata":{"name":"probe"},"spec":{"clusterIP":"`+ip+`","ports":[{"port":80}]}}`)
				if free := taken[ip] == ""; free != (w.Code == 201) {
					t.Fatalf("%s: free %v, but creating a service with it is answered %d %s", ip, free, w.Code, w.Body)
				}
			}
		}
	})
}

func TestServiceAllocationComesFirst(t *testing.T) {
	h := newServer(t).Handler()
	const services = "/api/v1/namespaces/n/services"
	// Two things are wrong; the one that could not be allocated is told, alone.
	got := want(t, h, 422, "POST", services, `{"metadata":{"name":"a"},"spec":{"clusterIP":"1.2.3.4","ports":[{"port":0}]}}`)
	if at(got, "details", "causes", 0, "field") != "spec.clusterIPs" || at(got, "details", "causes", 1) != nil {
		t.Errorf("%v", got)
	}
	got = want(t, h, 422, "POST", services, `{"metadata":{},"spec":{"ports":[{"port":80}]}}`)
	if at(got, "details", "causes", 0, "field") != "spec.clusterIPs" {
		t.Errorf("%v", got)
	}
	// A ServiceCIDR gives more addresses; an IPAddress of somebody else keeps one.
	const networking = "/apis/networking.k8s.io/v1/"
	want(t, h, 422, "POST", services, `{"metadata":{"name":"a"},"spec":{"clusterIP":"10.200.0.1","ports":[{"port":80}]}}`)
	want(t, h, 201, "POST", networking+"servicecidrs", `{"metadata":{"name":"more"},"spec":{"cidrs":["10.200.0.0/24"]}}`)
	want(t, h, 201, "POST", networking+"ipaddresses", `{"metadata":{"name":"10.200.0.2"},"spec":{"parentRef":{"resource":"gateways","name":"g","group":"x.y"}}}`)
	want(t, h, 201, "POST", services, `{"metadata":{"name":"a"},"spec":{"clusterIP":"10.200.0.1","ports":[{"port":80}]}}`)
	want(t, h, 422, "POST", services, `{"metadata":{"name":"b"},"spec":{"clusterIP":"10.200.0.2","ports":[{"port":80}]}}`)
}

// An address that an update gives along with the type ExternalName, in the old field alone, is no address, and nothing that later updates stumble over.
func TestAddressOfAnExternalName(t *testing.T) {
	h := newServer(t).Handler()
	const services = "/api/v1/namespaces/n/services"
	for i, c := range []struct{ before, address string }{
		{`"ports":[{"port":80}]`, "10.96.0.77"},
		{`"ports":[{"port":80}]`, "None"},
		{`"clusterIP":"None"`, "None"},
		{`"clusterIP":"None"`, "10.96.0.77"},
	} {
		name := fmt.Sprintf("s%d", i)
		want(t, h, 201, "POST", services, `{"metadata":{"name":"`+name+`"},"spec":{`+c.before+`}}`)
		put := `{"metadata":{"name":"` + name + `"},"spec":{"type":"ExternalName","externalName":"a.b","clusterIP":"` + c.address + `"}}`
		got := want(t, h, 200, "PUT", services+"/"+name, put)
		if at(got, "spec", "clusterIP") != nil || at(got, "spec", "clusterIPs") != nil {
			t.Errorf("%v: %v", c, at(got, "spec"))
		}
		want(t, h, 200, "PATCH", services+"/"+name, `{"spec":{"type":"ClusterIP","ports":[{"port":80}]}}`, "Content-Type", "application/merge-patch+json")
	}
	// One that is an external name already gets no address.
	const external = `{"metadata":{"name":"e"},"spec":{"type":"ExternalName","externalName":"a.b"`
	want(t, h, 201, "POST", services, external+`}}`)
	for _, address := range []string{"10.96.0.77", "None"} {
		want(t, h, 422, "PUT", services+"/e", external+`,"clusterIP":"`+address+`"}}`)
	}
	want(t, h, 200, "PUT", services+"/e", external+`,"clusterIP":""}}`)
}

// What stands as a node port in a service of the type ExternalName keeps nothing from anybody, and is no claim once the type changes.
func TestNodePortOfAnExternalName(t *testing.T) {
	h := newServer(t).Handler()
	const services = "/api/v1/namespaces/n/services"
	want(t, h, 201, "POST", services, `{"metadata":{"name":"has"},"spec":{"type":"NodePort","ports":[{"port":80,"nodePort":30001}]}}`)
	want(t, h, 201, "POST", services, `{"metadata":{"name":"says"},"spec":{"type":"ExternalName","externalName":"a.b","ports":[{"port":80,"nodePort":30001}]}}`)
	change := `{"spec":{"type":"NodePort","ports":[{"port":80,"nodePort":30001}]}}`
	w := call(t, h, "PATCH", services+"/says", change, "Content-Type", "application/merge-patch+json")
	if w.Code != 422 || !strings.Contains(w.Body.String(), "provided port is already allocated") {
		t.Errorf("a port that is taken: %d %s", w.Code, w.Body)
	}
	want(t, h, 200, "DELETE", services+"/has", "")
	want(t, h, 200, "PATCH", services+"/says", change, "Content-Type", "application/merge-patch+json")
}
