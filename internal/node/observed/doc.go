// Package observed is what the container runtime reports about one pod: its sandboxes and containers, newest first, with
// what the node itself wrote into their labels and annotations decoded again. It is how a node that starts finds its pods.
//
// It reads through CRI and changes nothing. It must not know pods' specifications or the API server.
package observed
