// Package audit writes down who did what: one event for each stage of each request that the policy asks for (audit.k8s.io/v1), as a line of
// JSON in a log file that is kept within bounds.
//
// The policy decides by user, verb and resource how much of a request is written: nothing, who asked for what (Metadata), what was sent
// (Request), and what was answered (RequestResponse). A server without a policy has no Auditor, and pays nothing.
//
// The package knows nothing of how requests are served: the chain of the API server makes an Entry for each, tells it what it learns and
// ends it.
package audit
