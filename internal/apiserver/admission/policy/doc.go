// Package policy is admission by expressions that are kept in the API: ValidatingAdmissionPolicy and MutatingAdmissionPolicy with
// their bindings and parameters (KEP-3488, KEP-3962).
//
// What is in force is what the store holds at the moment of the request: policies that have a binding. A policy is compiled when it
// first concerns a request, and kept as long as its revision. Errors of configuration and evaluation count as the policy's
// failurePolicy says. Policies are evaluated in the order of their names, and so are bindings.
package policy
