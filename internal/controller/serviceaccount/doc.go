// Package serviceaccount gives every namespace its ServiceAccount "default", without which no pod is admitted there.
package serviceaccount
