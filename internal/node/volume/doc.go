// Package volume puts pods' volumes on disk and says what containers mount of them: emptyDir, hostPath, configMap, secret,
// downwardAPI, projected with service account tokens, trust bundles and pods' certificates, and claims bound to local or hostPath volumes.
//
// Volumes made of objects are written with the ..data scheme: one rename changes all files at once. Secrets and tokens
// live on one tmpfs of the node and never on disk. Nothing that a pod says is trusted as a path: sub paths are resolved
// below the volume by the kernel and handed on as bind mounts.
//
// It asks for objects through Sources and mounts through Mounter. It must not know the runtime or the pod's state.
package volume
