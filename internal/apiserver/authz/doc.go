// Package authz decides whether a user may do what a request asks. An Authorizer asks, in this order, the short cut for
// system:masters, the node authorizer (a node may read what the pods bound to it name, and write its own objects), and RBAC.
// It also answers access reviews and lists a user's rules, and a Guard keeps users from granting what they do not hold.
//
// RBAC is kept as an index from users and groups to the rules that reach them. The index follows the store's events; before a
// refusal it is compared with the store once more, so that a grant counts as soon as its write was acknowledged.
//
// The package reads and writes nothing but memory. Who the user is was found out by package authn.
package authz
