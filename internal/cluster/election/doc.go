// Package election lets one of several servers do what only one may do at a time. A candidate that holds a Lease of the API leads; it renews the lease, and
// stops leading well before the lease runs out if it cannot. What it leads has ended before the lease is given up, so there are never two leaders.
//
// The Lease is that of client-go's leader election (names, fields, times), so that `kubectl get lease` shows what people expect and a server of this program
// and a kube-controller-manager would respect each other. Clocks of different machines are not compared: a lease runs out by the reader's own clock. The
// package must not know what is led.
package election
