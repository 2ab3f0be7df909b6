// Package match decides whether a write is one that a webhook, a policy or a binding is about: by rules (operations, groups,
// versions, resources, subresources, scope, names), by the labels of its namespace and by those of the object. With the policy
// Equivalent, a rule about another version of the same resource counts, and the answer says which version that is.
//
// A Set keeps the criteria of many and remembers, for each kind of write, which of them it can concern at all, so that a write
// that concerns none costs one look into a map. The package evaluates no expressions and calls nobody.
package match
