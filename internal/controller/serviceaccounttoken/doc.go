// Package serviceaccounttoken fills secrets of type kubernetes.io/service-account-token with a token of the service account that they name, and
// removes them when that is gone. It must not know how tokens are made.
package serviceaccounttoken
