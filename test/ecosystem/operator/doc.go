// Command operator is what somebody who writes operators would bring to a cluster: a controller-runtime manager with a custom resource in
// two versions, a reconciler, a finalizer, defaulting, validating and conversion webhooks, events, and leader election. Celox' end-to-end
// tests run it against the built binary. It knows nothing of Celox: a kubeconfig is all that it is given, and it installs its own
// definition and webhook configurations, as operators do.
package main
