// Package tainteviction deletes pods from nodes with NoExecute taints that they do not tolerate, at once or when their toleration runs out.
package tainteviction
