// Package policy holds the kinds of the API group policy: pod disruption budgets.
// One file is one kind; it knows nothing but the API types and the packages that check and print them.
package policy
