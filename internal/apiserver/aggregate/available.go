package aggregate

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"github.com/celox/celox/internal/apiserver/openapi"
)

const (
	// recheck is how often a server that was available is asked again; one that was not is asked sooner, after retryFirst at first.
	recheck    = 30 * time.Second
	retryFirst = time.Second
	// checkTimeout is how long a server may take to answer a check, maxDocument how much it may say, in bytes.
	checkTimeout = 5 * time.Second
	maxDocument  = 32 << 20
)

// found is what a check found out about a server.
type found struct {
	resources []metav1.APIResource
	// openAPI is the document of the group version with the ETag that the server gave it, empty where it has none.
	openAPI []byte
	etag    string
	// v2 is the part of the server's OpenAPI v2 document that is about the group version, v2Tag the document's ETag. v2Hash names the part.
	v2            openapi.Addition
	v2Tag, v2Hash string
}

// run checks the backend again and again, until it is stopped or ctx ends.
func (b *backend) run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	retry := retryFirst
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-b.ended:
			return
		case <-b.poke:
			retry = retryFirst
		case <-timer.C:
		}
		good, err := b.check(ctx)
		wait := recheck
		if good && err == nil {
			retry = retryFirst
		} else {
			wait, retry = retry, min(2*retry, recheck)
		}
		if err != nil && ctx.Err() == nil {
			b.a.log.Debug("telling the availability of an APIService", "apiService", b.name, "error", err)
		}
		timer.Reset(wait)
	}
}

// check finds out whether the server is available and tells it in the APIService.
func (b *backend) check(ctx context.Context) (available bool, err error) {
	c := b.condition(ctx)
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	available = c.Status == apiregistrationv1.ConditionTrue
	if b.available.Swap(available) != available {
		b.a.mu.Lock()
		b.a.changed(b.gv.Group)
		b.a.mu.Unlock()
	}
	item, err := b.a.cfg.APIServices.Get(ctx, b.name, anyRevision)
	if err != nil || item == nil {
		return available, err
	}
	s, ok := item.Object.(*apiregistrationv1.APIService)
	if !ok || s.UID != b.uid {
		return available, nil // another one of the name; that will be heard of
	}
	out := s.DeepCopy()
	if !setCondition(out, c) {
		return available, nil
	}
	_, err = b.a.client.UpdateStatus(ctx, out, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		err = nil
	}
	return available, err
}

// setCondition puts a condition in place; false if it says nothing new.
func setCondition(s *apiregistrationv1.APIService, c apiregistrationv1.APIServiceCondition) bool {
	for i := range s.Status.Conditions {
		have := &s.Status.Conditions[i]
		if have.Type != c.Type {
			continue
		}
		if have.Status == c.Status {
			if have.Reason == c.Reason && have.Message == c.Message {
				return false
			}
			c.LastTransitionTime = have.LastTransitionTime
		}
		*have = c
		return true
	}
	s.Status.Conditions = append(s.Status.Conditions, c)
	return true
}

// condition checks, in this order, the service, its port, its endpoints and the answer of the server.
func (b *backend) condition(ctx context.Context) apiregistrationv1.APIServiceCondition {
	say := func(status apiregistrationv1.ConditionStatus, reason, format string, args ...any) apiregistrationv1.APIServiceCondition {
		return apiregistrationv1.APIServiceCondition{
			Type: apiregistrationv1.Available, Status: status, Reason: reason, Message: fmt.Sprintf(format, args...), LastTransitionTime: metav1.Now(),
		}
	}
	const no, unknown = apiregistrationv1.ConditionFalse, apiregistrationv1.ConditionUnknown
	ns, name := b.spec.Service.Namespace, b.spec.Service.Name
	svc, err := b.a.cfg.Objects.Service(ctx, ns, name)
	switch {
	case apierrors.IsNotFound(err):
		return say(no, "ServiceNotFound", "service/%s in %q is not present", name, ns)
	case err != nil:
		return say(unknown, "ServiceAccessError", "service/%s in %q cannot be checked due to: %v", name, ns, err)
	}
	if svc.Spec.Type == corev1.ServiceTypeClusterIP {
		i := slices.IndexFunc(svc.Spec.Ports, func(p corev1.ServicePort) bool { return p.Port == b.port })
		if i < 0 {
			return say(no, "ServicePortError", "service/%s in %q is not listening on port %d", name, ns, b.port)
		}
		portName := svc.Spec.Ports[i].Name
		all, err := b.a.cfg.Objects.EndpointSlices(ctx, ns, name)
		switch {
		case err != nil:
			return say(unknown, "EndpointsAccessError", "service/%s in %q cannot be checked due to: %v", name, ns, err)
		case len(all) == 0:
			return say(no, "EndpointsNotFound", "cannot find endpointslices for service/%s in %q", name, ns)
		case !slices.ContainsFunc(all, func(s *discoveryv1.EndpointSlice) bool { return ready(s, portName) }):
			return say(no, "MissingEndpoints", "endpointslices for service/%s in %q have no addresses with port name %q", name, ns, portName)
		}
	}
	if err := b.discover(ctx); err != nil {
		return say(no, "FailedDiscoveryCheck", "%v", err)
	}
	return say(apiregistrationv1.ConditionTrue, "Passed", "all checks passed")
}

// ready says whether a slice has an endpoint that is ready, and the port.
func ready(s *discoveryv1.EndpointSlice, portName string) bool {
	return slices.ContainsFunc(s.Endpoints, func(e discoveryv1.Endpoint) bool { return e.Conditions.Ready == nil || *e.Conditions.Ready }) &&
		slices.ContainsFunc(s.Ports, func(p discoveryv1.EndpointPort) bool { return p.Name != nil && *p.Name == portName && p.Port != nil })
}

// self is who asks for documents: somebody who may read them whatever the server's own rules are.
func self() user.Info {
	return &user.DefaultInfo{Name: "system:kube-aggregator", Groups: []string{user.SystemPrivilegedGroup}}
}

// discover asks the server for the document that it is required to serve, and keeps what it says of its resources.
func (b *backend) discover(ctx context.Context) error {
	if b.broken != nil {
		return b.broken
	}
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	path := "/apis/" + b.gv.Group + "/" + b.gv.Version
	if b.gv.Group == "" {
		path = "/api/" + b.gv.Version
	}
	body, _, where, err := b.fetch(ctx, path, "")
	if err != nil {
		b.plain.CloseIdleConnections()
		return fmt.Errorf("failing or missing response from %v: %w", where, err)
	}
	before := b.found.Load()
	next := &found{}
	if before != nil {
		*next = *before
	}
	var list metav1.APIResourceList
	if err := json.Unmarshal(body, &list); err == nil {
		next.resources = list.APIResources
	}
	// A server without OpenAPI is none the worse for it; one that only has v2, as old ones do, has its v3 made of that.
	doc, etag, _, err := b.fetch(ctx, "/openapi/v3"+path, next.etag)
	if err == nil && doc != nil {
		next.openAPI, next.etag = doc, etag
	}
	old := err != nil && next.etag == ""
	if doc, etag, _, err := b.fetch(ctx, "/openapi/v2", next.v2Tag); err == nil && doc != nil {
		if next.v2, err = openapi.Cut(doc, path+"/"); err != nil {
			b.a.log.Debug("reading the OpenAPI v2 document of an aggregated server", "apiService", b.name, "error", err)
		}
		sum := sha256.Sum256(slices.Concat(next.v2.Paths, next.v2.Definitions, next.v2.Parameters))
		next.v2Tag, next.v2Hash = etag, hex.EncodeToString(sum[:])
		if old && len(next.v2.Paths) > 0 {
			if next.openAPI, err = next.v2.V3(); err != nil {
				b.a.log.Debug("converting the OpenAPI v2 document of an aggregated server", "apiService", b.name, "error", err)
			}
		}
	}
	if before == nil || before.etag != next.etag || before.v2Hash != next.v2Hash || !equalResources(before.resources, next.resources) {
		b.found.Store(next)
		b.a.mu.Lock()
		b.a.changed(b.gv.Group)
		b.a.mu.Unlock()
	}
	return nil
}

func equalResources(a, b []metav1.APIResource) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && string(x) == string(y)
}

// fetch reads a document; nil is one that has not changed since it had the ETag.
func (b *backend) fetch(ctx context.Context, path, etag string) (body []byte, newTag, where string, err error) {
	u, err := b.locate(ctx)
	if err != nil {
		return nil, "", path, err
	}
	u.Path = path
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, "", u.String(), err
	}
	identify(r.Header, self())
	r.Header.Set("Accept", "application/json")
	if etag != "" {
		r.Header.Set("If-None-Match", etag)
	}
	resp, err := b.plain.RoundTrip(r)
	if err != nil {
		return nil, "", u.String(), err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNotModified && etag != "" {
		return nil, etag, u.String(), nil
	}
	if resp.StatusCode < 200 || resp.StatusCode >= 300 {
		return nil, "", u.String(), fmt.Errorf("bad status from %v: %d", u, resp.StatusCode)
	}
	body, err = io.ReadAll(io.LimitReader(resp.Body, maxDocument))
	return body, resp.Header.Get("Etag"), u.String(), err
}
