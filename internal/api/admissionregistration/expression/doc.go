// Package expression compiles and evaluates the CEL expressions of admission: match conditions of webhooks, and the conditions,
// validations, messages, notes, variables and mutations of policies. It declares what they see (object, oldObject, params, request,
// namespaceObject, authorizer, variables), of what type that is, and which libraries there are, as Kubernetes documents it.
//
// Environments are made once, when the first expression needs them. Compilation is pure. Evaluation is bounded by a budget of cost
// units and by its context. The package knows the API types only: no store, no server; what authorizes is handed in.
package expression
