package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"syscall"
	"time"

	"github.com/celox/celox/test/e2e/machine"
)

const (
	customsMethod = "As requests, with ConfigMaps and custom objects with as much data in turn: the target of a custom object is twice what the ConfigMap cost in this run. The last figure is " +
		"what two CEL rules add to a create."
	definitionsMethod = "A control plane; 1,000 definitions of custom resources in 100 groups are created one after another, each until its list is answered: the median of the first and the last " +
		"ten. Memory is the server's Pss, settled, after a restart with all of them (one has been listed), less that after a restart without. Start-up is the median of three restarts until the API is ready and a list of the last resource is answered, " +
		"with all definitions less without."
	documentsMethod = "2,000 requests each for prepared documents, by 16 clients, compressed as clients ask for them. CPU time of the server over the number of requests."

	customGroup      = "bench.celox.dev"
	definitionsCount = 1000
	definitionsEdge  = 10 // of which the first and the last creations are the median
	restarts         = 3
	documents        = 2000
	// servedLimit bounds the wait until a definition is served. It is no measurement.
	servedLimit = time.Minute

	typeAggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
)

// definition is a custom resource with a schema; rules are its x-kubernetes-validations.
func definition(group, plural, kind string, rules ...string) []byte {
	text := object{"type": "string"}
	spec := object{"type": "object", "properties": object{
		"payload": object{"type": "string", "maxLength": 2 * payload}, "patched": text, "applied": text, "count": object{"type": "integer", "minimum": 0},
		"list": object{"type": "array", "maxItems": 10, "items": object{"type": "object", "properties": object{"name": text}}},
	}}
	var checks []object
	for _, r := range rules {
		checks = append(checks, object{"rule": r})
	}
	if len(checks) > 0 {
		spec["x-kubernetes-validations"] = checks
	}
	return encode(object{
		"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": object{"name": plural + "." + group},
		"spec": object{
			"group": group, "scope": "Namespaced", "names": object{"plural": plural, "singular": strings.ToLower(kind), "kind": kind, "listKind": kind + "List"},
			"versions": []object{{"name": "v1", "served": true, "storage": true, "schema": object{"openAPIV3Schema": object{"type": "object", "properties": object{"spec": spec}}}}},
		},
	})
}

func customPath(group, plural string) string {
	return "/apis/" + group + "/v1/namespaces/" + namespace + "/" + plural
}

// define creates a definition and waits until its objects can be listed.
func (c *client) define(ctx context.Context, group, plural, kind string, rules ...string) error {
	_, err := c.drain(ctx, 0, call{method: http.MethodPost, path: "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", body: definition(group, plural, kind, rules...)})
	if err != nil {
		return err
	}
	return c.awaitServed(ctx, group, plural)
}

func (c *client) awaitServed(ctx context.Context, group, plural string) error {
	ctx, cancel := context.WithTimeout(ctx, servedLimit)
	defer cancel()
	for {
		_, err := c.drain(ctx, 0, call{method: http.MethodGet, path: customPath(group, plural)})
		if err == nil {
			return nil
		}
		if pause(ctx, pollEvery) != nil {
			return fmt.Errorf("%s.%s is not served: %w", plural, group, err)
		}
	}
}

// form is a kind whose objects a scenario writes: data is the field that holds theirs.
type form struct {
	name, path, apiVersion, kind, data string
}

func (f form) object(name, version string, data object) []byte {
	meta := object{"name": name, "labels": object{"app": "bench"}}
	if version != "" {
		meta["resourceVersion"] = version
	}
	return encode(object{"apiVersion": f.apiVersion, "kind": f.kind, "metadata": meta, f.data: data})
}

func customs(ctx context.Context, b *bench) error {
	return b.onStage("customs", func(s *stage) error {
		if err := s.client.makeNamespace(ctx); err != nil {
			return err
		}
		if err := s.client.define(ctx, customGroup, "things", "Thing"); err != nil {
			return err
		}
		if err := s.client.define(ctx, customGroup, "ruleds", "Ruled", "self.payload != 'no'", "!has(self.count) || self.count > 0"); err != nil {
			return err
		}
		plain := form{"ConfigMap", inNamespace("configmaps"), "v1", "ConfigMap", "data"}
		thing := form{"custom", customPath(customGroup, "things"), customGroup + "/v1", "Thing", "spec"}
		ruled := form{"with rules", customPath(customGroup, "ruleds"), customGroup + "/v1", "Ruled", "spec"}
		var free float64 // a create without rules
		for _, verb := range []string{"create", "get", "update", "merge patch", "apply", "delete"} {
			base, err := b.customVerb(ctx, s, plain, verb)
			if err != nil {
				return err
			}
			got, err := b.customVerb(ctx, s, thing, verb)
			if err != nil {
				return err
			}
			b.out.figure(figure{Name: verb + " of a custom object", Value: got, Unit: "ms CPU", Target: 2 * base, Detail: fmt.Sprintf("%.1f times a ConfigMap's %s", got/base, number(base))})
			if verb == "create" {
				free = got
			}
		}
		got, err := b.customVerb(ctx, s, ruled, "create")
		if err != nil {
			return err
		}
		b.out.figure(figure{Name: "two CEL rules add to a create", Value: max(0, got-free), Unit: "ms CPU", Target: 0.1, Detail: fmt.Sprintf("%s with, %s without", number(got), number(free))})
		return nil
	}, "--disable-node")
}

// customVerb has one verb done with objects of a form and returns the server's CPU time for one, in milliseconds.
func (b *bench) customVerb(ctx context.Context, s *stage, f form, verb string) (float64, error) {
	b.say("customs: %s, %s", verb, f.name)
	n := b.opt.requests
	var make func(i int) call
	name := func(i int) string { return fmt.Sprintf("o-%d", i%b.opt.requests) }
	at := func(i int) string { return f.path + "/" + name(i) }
	data := func(fill string) object { return object{"payload": strings.Repeat(fill, payload)} }
	switch verb {
	case "create":
		make = func(i int) call {
			return call{method: http.MethodPost, path: f.path, body: f.object(name(i), "", data("c"))}
		}
	case "get":
		n *= getRounds
		make = func(i int) call { return call{method: http.MethodGet, path: at(i)} }
	case "update":
		versions, err := s.versions(ctx, n, at)
		if err != nil {
			return 0, err
		}
		make = func(i int) call {
			return call{method: http.MethodPut, path: at(i), body: f.object(name(i), versions[i], data("u"))}
		}
	case "merge patch":
		make = func(i int) call {
			return call{method: http.MethodPatch, path: at(i), contentType: typeMerge, body: encode(object{f.data: object{"patched": fmt.Sprint(i)}})}
		}
	case "apply":
		make = func(i int) call {
			return call{method: http.MethodPatch, path: at(i) + "?fieldManager=bench-apply&force=true", contentType: typeApply, body: f.object(name(i), "", object{"applied": fmt.Sprint(i)})}
		}
	case "delete":
		make = func(i int) call { return call{method: http.MethodDelete, path: at(i)} }
	}
	return s.cpuPer(ctx, n, make)
}

// versions are the resource versions of n objects.
func (s *stage) versions(ctx context.Context, n int, at func(i int) string) ([]string, error) {
	out := make([]string, n)
	return out, parallel(ctx, clients, n, func(ctx context.Context, worker, i int) error {
		got, err := s.client.do(ctx, worker, call{method: http.MethodGet, path: at(i)})
		if err == nil {
			out[i], err = resourceVersion(got)
		}
		return err
	})
}

// cpuPer has n requests sent by all clients and returns the server's CPU time for one, in milliseconds.
func (s *stage) cpuPer(ctx context.Context, n int, make func(i int) call) (float64, error) {
	before, err := s.cluster.cpu()
	if err != nil {
		return 0, err
	}
	err = parallel(ctx, clients, n, func(ctx context.Context, worker, i int) error {
		_, err := s.client.drain(ctx, worker, make(i))
		return err
	})
	if err != nil {
		return 0, err
	}
	after, err := s.cluster.cpu()
	return milliseconds(after-before) / float64(n), err
}

func definitions(ctx context.Context, b *bench) (err error) {
	m, err := machine.New("definitions")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			b.say("the server said:\n%s", m.Output())
		}
		err = errors.Join(err, m.Remove())
	}()
	if err := m.Start("--disable-node"); err != nil {
		return err
	}
	name := func(i int) (group, plural string) {
		return fmt.Sprintf("g%d.%s", i/10, customGroup), fmt.Sprintf("things%d", i)
	}
	lastGroup, lastPlural := name(definitionsCount - 1)
	without, err := b.restarted(ctx, m, func(*client) error { return nil })
	if err != nil {
		return err
	}
	s := &stage{Machine: m, cluster: cluster{pid: m.Pid(), dataDir: m.DataDir}}
	if s.client, err = newClient(m, 1); err != nil {
		return err
	}
	defer func() { s.client.close() }()
	if err := s.client.makeNamespace(ctx); err != nil {
		return err
	}
	small, err := s.settled(ctx)
	if err != nil {
		return err
	}
	b.say("definitions: creating %d", definitionsCount)
	took := make([]time.Duration, definitionsCount)
	for i := range took {
		group, plural := name(i)
		begin := time.Now()
		if err := s.client.define(ctx, group, plural, fmt.Sprintf("Thing%d", i)); err != nil {
			return err
		}
		took[i] = time.Since(begin)
	}
	used, err := s.settled(ctx)
	if err != nil {
		return err
	}
	with, err := b.restarted(ctx, m, func(c *client) error { return c.awaitServed(ctx, lastGroup, lastPlural) })
	if err != nil {
		return err
	}
	s.cluster.pid = m.Pid()
	large, err := s.settled(ctx)
	if err != nil {
		return err
	}
	s.client.close()
	if s.client, err = newClient(m, 1); err != nil {
		return err
	}
	for i := range definitionsCount {
		group, plural := name(i)
		if err := s.client.useDefinition(ctx, form{"", customPath(group, plural), group + "/v1", fmt.Sprintf("Thing%d", i), "spec"}); err != nil {
			return err
		}
	}
	all, err := s.settled(ctx)
	if err != nil {
		return err
	}
	first, last := quantile(took[:definitionsEdge], 0.5), quantile(took[definitionsCount-definitionsEdge:], 0.5)
	b.out.figure(figure{Name: "1,000 definitions: memory", Value: float64(large-small) / 1e6, Unit: "MB", Target: 60,
		Detail: fmt.Sprintf("%.0f to %.0f; %.0f in the server that made and listed each", float64(small)/1e6, float64(large)/1e6, float64(used)/1e6)})
	b.out.figure(figure{Name: "1,000 definitions in use: memory", Value: float64(all-small) / 1e6, Unit: "MB", Detail: "an object of each was created, listed and applied"})
	b.out.figure(figure{Name: "the thousandth definition", Value: milliseconds(last), Unit: "ms", Target: 2 * milliseconds(first), Detail: fmt.Sprintf("the first %.1f", milliseconds(first))})
	b.out.figure(figure{Name: "start-up takes longer by", Value: max(0, (with - without).Seconds()), Unit: "s", Target: 0.5, Detail: fmt.Sprintf("%.2f to %.2f", without.Seconds(), with.Seconds())})
	return nil
}

// useDefinition creates, lists and applies an object of a form.
func (c *client) useDefinition(ctx context.Context, f form) error {
	for _, r := range []call{
		{method: http.MethodPost, path: f.path, body: f.object("a", "", object{"payload": "x"})},
		{method: http.MethodGet, path: f.path},
		{method: http.MethodPatch, path: f.path + "/a?fieldManager=bench-apply&force=true", contentType: typeApply, body: f.object("a", "", object{"applied": "x"})},
	} {
		if _, err := c.drain(ctx, 0, r); err != nil {
			return err
		}
	}
	return nil
}

// restarted restarts a machine's server some times and returns the median of how long it takes until the API is ready and until returns.
func (b *bench) restarted(ctx context.Context, m *machine.Machine, until func(*client) error) (time.Duration, error) {
	var took []time.Duration
	for i := range restarts {
		b.say("definitions: restart %d of %d", i+1, restarts)
		if err := m.Signal(syscall.SIGTERM); err != nil {
			return 0, err
		}
		begin := time.Now()
		if err := m.Start("--disable-node"); err != nil {
			return 0, err
		}
		if err := awaitReadyz(ctx, m); err != nil {
			return 0, err
		}
		c, err := newClient(m, 1)
		if err != nil {
			return 0, err
		}
		err = until(c)
		took = append(took, time.Since(begin))
		c.close()
		if err != nil {
			return 0, err
		}
	}
	return quantile(took, 0.5), nil
}

func preparedDocuments(ctx context.Context, b *bench) error {
	return b.onStage("documents", func(s *stage) error {
		for _, d := range []struct{ name, path, accept string }{
			{"discovery, all groups", "/apis", typeAggregated},
			{"discovery, one group", "/apis/apps/v1", typeJSON},
			{"OpenAPI v3, the index", "/openapi/v3", typeJSON},
			{"OpenAPI v3, apps/v1", "/openapi/v3/apis/apps/v1", typeJSON},
		} {
			r := call{method: http.MethodGet, path: d.path, accept: d.accept, encoding: "gzip"}
			size, err := s.client.drain(ctx, 0, r) // what is prepared at the first request is
			if err != nil {
				return err
			}
			got, err := s.cpuPer(ctx, documents, func(int) call { return r })
			if err != nil {
				return err
			}
			b.out.figure(figure{Name: d.name, Value: got, Unit: "ms CPU", Target: 0.1, Detail: fmt.Sprintf("%.0f KB", float64(size)/1e3)})
		}
		return nil
	}, "--disable-node")
}
