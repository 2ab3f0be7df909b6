package request

import (
	"context"

	"k8s.io/apiserver/pkg/authentication/user"
)

// Attributes is what an authorizer decides about.
type Attributes struct {
	User user.Info
	// Verb is an API verb, or for a plain path the HTTP method in lower case.
	Verb        string
	Namespace   string
	Group       string
	Version     string
	Resource    string
	Subresource string
	Name        string
	// ResourceRequest tells a request for a resource from one for a plain path.
	ResourceRequest bool
	// FieldSelector is what a list or watch is restricted to, as the request says it; "" is nothing.
	FieldSelector string
	// Path is set for plain paths.
	Path string
}

// Decision is an authorizer's answer.
type Decision int8

// The decisions. NoOpinion lets the next authorizer decide, and is a no when there is none.
const (
	NoOpinion Decision = iota
	Allow
	Deny
)

// Authorizer decides whether a user may do something. The reason is shown to the user who is refused.
type Authorizer interface {
	Authorize(ctx context.Context, a Attributes) (d Decision, reason string, err error)
}

// AttributesOf makes the question whether u may do what i asks.
func AttributesOf(u user.Info, i *Info) Attributes {
	a := Attributes{User: u, Verb: i.Verb, ResourceRequest: i.IsResource, Path: i.Path}
	if i.IsResource {
		a.Namespace, a.Group, a.Version, a.Resource, a.Subresource, a.Name = i.Namespace, i.Group, i.Version, i.Resource, i.Subresource, i.Name
		a.FieldSelector = i.FieldSelector
	}
	return a
}
