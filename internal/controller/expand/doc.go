// Package expand sees claims that grow. Volumes are enlarged by the resizer of their CSI driver, outside; the claim's events say who is waited for.
package expand
