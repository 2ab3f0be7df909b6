// Package nodettl tells nodes, by an annotation, how long they may believe what they know of a secret or ConfigMap: not at all in small clusters, longer in
// larger ones. Kubelets of upstream read it; the node of this program watches instead.
package nodettl
