// Package bootstrap makes the objects that every cluster begins with: the system namespaces, the default roles and bindings, the
// priority classes, the flow schemas and priority levels, and the kubernetes service with its endpoints. Run at each start,
// it puts back what is missing and leaves alone what the owner of the cluster changed or asked to be left alone
// (rbac.authorization.kubernetes.io/autoupdate: "false").
//
// It speaks to the API as any client does and knows nothing of the server behind it.
package bootstrap
