package apiserver

import (
	"fmt"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/celox/celox/internal/apiserver/request"
)

const (
	authenticationGroup = "authentication.k8s.io"
	nodeUserPrefix      = "system:node:"
)

// guise is what somebody may take another's name for (KEP-5284): a user of a certain kind, and then only for what impersonate-on:GUISE:VERB allows. The
// last one, without a name, is the one from before there were guises: whoever may impersonate may do all that the other may.
type guise string

func guises() []guise {
	return []guise{"associated-node", "arbitrary-node", "serviceaccount", "user-info", ""}
}

// fits says whether a guise is for impersonating as at all.
func (g guise) fits(as *user.DefaultInfo, by user.Info) bool {
	node, isNode := nodeOf(as.Name)
	_, _, err := serviceaccount.SplitUsername(as.Name)
	isAccount := err == nil
	nameOnly := as.UID == "" && len(as.Groups) == 0 && len(as.Extra) == 0
	switch g {
	case "associated-node":
		_, _, err := serviceaccount.SplitUsername(by.GetName())
		own := by.GetExtra()[serviceaccount.NodeNameKey]
		return nameOnly && isNode && err == nil && len(own) == 1 && own[0] == node
	case "arbitrary-node":
		return nameOnly && isNode
	case "serviceaccount":
		return nameOnly && isAccount
	case "user-info":
		return !isNode && !isAccount
	}
	return true
}

func nodeOf(name string) (string, bool) {
	node, ok := strings.CutPrefix(name, nodeUserPrefix)
	return node, ok && len(apivalidation.NameIsDNSSubdomain(node, false)) == 0
}

// become asks in one guise after the other whether the caller may be as; the first refusal is the one to tell. constraint is the verb that allowed it, ""
// for the old way.
func (x *exchange) become(as *user.DefaultInfo) (_ *user.DefaultInfo, constraint string, _ error) {
	var first error
	for _, g := range guises() {
		if !g.fits(as, x.user) {
			continue
		}
		u, err := x.becomeAs(g, as)
		if err == nil {
			if g != "" {
				constraint = "impersonate:" + string(g)
			}
			return u, constraint, nil
		}
		if first == nil {
			first = err
		}
	}
	return nil, "", first
}

func (x *exchange) becomeAs(g guise, wanted *user.DefaultInfo) (*user.DefaultInfo, error) {
	verb, group := "impersonate", "" // of users and groups
	if g != "" {
		verb, group = "impersonate:"+string(g), authenticationGroup
		a := request.AttributesOf(x.user, x.info)
		a.Verb = "impersonate-on:" + string(g) + ":" + a.Verb
		if g == "associated-node" {
			a.User = withoutExtra(x.user)
		}
		if err := x.allowed(a); err != nil {
			return nil, err
		}
	}
	who := x.user
	if g == "associated-node" {
		who = withoutExtra(x.user)
	}
	ask := func(group, resource, sub, namespace, name string) error {
		return x.allowed(request.Attributes{User: who, Verb: verb, Group: group, Version: "v1", Resource: resource, Subresource: sub, Namespace: namespace, Name: name, ResourceRequest: true})
	}
	as := *wanted
	node, isNode := nodeOf(as.Name)
	namespace, account, err := serviceaccount.SplitUsername(as.Name)
	switch {
	case g != "" && isNode:
		as.Groups = []string{user.NodesGroup}
		if g == "associated-node" {
			node = "*" // whichever it is: it is the caller's own
		}
		err = ask(group, "nodes", "", "", node)
	case err == nil:
		if len(as.Groups) == 0 {
			as.Groups = serviceaccount.MakeGroupNames(namespace)
		}
		err = ask(group, "serviceaccounts", "", namespace, account)
	default:
		err = ask(group, "users", "", "", as.Name)
	}
	if err != nil {
		return nil, err
	}
	if as.UID != "" {
		if err := ask(authenticationGroup, "uids", "", "", as.UID); err != nil {
			return nil, err
		}
	}
	if g != "" {
		if err := x.seemly(verb, wanted); err != nil {
			return nil, err
		}
	}
	for _, name := range wanted.Groups {
		if err := ask(group, "groups", "", "", name); err != nil {
			return nil, err
		}
	}
	for key, values := range wanted.Extra {
		for _, v := range values {
			if err := ask(authenticationGroup, "userextras", key, "", v); err != nil {
				return nil, err
			}
		}
	}
	switch {
	case as.Name == user.Anonymous:
		if !slices.Contains(as.Groups, user.AllUnauthenticated) {
			as.Groups = append(slices.Clone(as.Groups), user.AllUnauthenticated)
		}
	case !slices.Contains(as.Groups, user.AllAuthenticated) && !slices.Contains(as.Groups, user.AllUnauthenticated):
		as.Groups = append(slices.Clone(as.Groups), user.AllAuthenticated)
	}
	return &as, nil
}

// allowed asks the authorizer; the error is the refusal.
func (x *exchange) allowed(a request.Attributes) error {
	d, reason, err := x.s.cfg.Authorizer.Authorize(x.ctx, a)
	switch {
	case d == request.Allow:
		return nil
	case err != nil:
		return apierrors.NewInternalError(err)
	}
	return x.forbidden(a, reason)
}

// seemly refuses what nobody takes on in a guise.
func (x *exchange) seemly(verb string, as *user.DefaultInfo) error {
	refuse := func(group, resource, name, text string) error {
		return x.forbidden(request.Attributes{User: x.user, Verb: verb, Group: group, Version: "v1", Resource: resource, Name: name, ResourceRequest: true}, text)
	}
	switch {
	case slices.Contains(as.Groups, ""):
		return refuse(authenticationGroup, "groups", "", "impersonating the empty string group is not allowed")
	case slices.Contains(as.Groups, user.SystemPrivilegedGroup):
		return refuse(authenticationGroup, "groups", user.SystemPrivilegedGroup, "impersonating the system:masters group is not allowed")
	}
	for key, values := range as.Extra {
		text := ""
		switch errs := validation.IsDomainPrefixedPath(field.NewPath("extra", "key"), key).ToAggregate(); {
		case key == "":
			text = "impersonating the empty string key in extra is not allowed"
		case errs != nil:
			text = fmt.Sprintf("impersonating an invalid key in extra is not allowed: %v", errs)
		case key != strings.ToLower(key):
			text = fmt.Sprintf("impersonating a non-lowercase key in extra is not allowed: %q", key)
		case len(values) == 0:
			text = "impersonating empty values in extra is not allowed"
		case slices.Contains(values, ""):
			text = "impersonating the empty string value in extra is not allowed"
		default:
			continue
		}
		return refuse(authenticationGroup, "userextras", "", text)
	}
	return nil
}

// withoutExtra is u with nothing of its extra values but their keys: which node a service account runs on must not make a difference.
func withoutExtra(u user.Info) user.Info {
	keys := make([]string, 0, len(u.GetExtra()))
	for k := range u.GetExtra() {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return &user.DefaultInfo{Name: u.GetName(), UID: u.GetUID(), Groups: u.GetGroups(), Extra: map[string][]string{"authentication.kubernetes.io/associated-node-keys": keys}}
}
