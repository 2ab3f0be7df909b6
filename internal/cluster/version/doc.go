// Package version says which Celox this is and which Kubernetes API it speaks. It knows nothing else.
package version
