// Package tokencleaner removes bootstrap tokens that are over: secrets of type bootstrap.kubernetes.io/token in kube-system whose expiration has passed.
// They are good for nothing by then; the API server looks at the time itself.
package tokencleaner
