// Package input shows a write to the CEL expressions of webhooks and policies: it turns admission's attributes into what package
// expression evaluates, and the API server's authorizer into the one that expressions ask. It decides nothing.
package input
