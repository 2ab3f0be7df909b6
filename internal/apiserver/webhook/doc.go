// Package webhook calls out: it posts JSON over TLS to a URL or to a service of the cluster and hands back the answer. Admission
// and the conversion of custom resources share it, and with it the connections.
//
// A Client keeps one transport per destination and CA bundle; For finds it, Caller.Post uses it. A service is found at every call
// through a Resolver and reached at one of its ready endpoints, chosen at random, while TLS verifies <service>.<namespace>.svc; the
// connections to each endpoint stay open and are used again (HTTP/2 where the other side speaks it).
//
// The package knows nothing of admission, reviews or objects: what is asked and what an answer means is its callers' business.
package webhook
