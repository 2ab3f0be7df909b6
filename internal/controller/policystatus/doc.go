// Package policystatus checks the types in the expressions of ValidatingAdmissionPolicies against the schemas of the kinds that they are
// about, and writes what it finds into the policy's status. A finding is a warning: it changes nothing for the policy.
//
// It reads policies through an informer, and the schemas as every client does, from the API's OpenAPI documents and discovery, when a
// policy has changed. It writes the status of policies and nothing else, and knows no other controller.
package policystatus
