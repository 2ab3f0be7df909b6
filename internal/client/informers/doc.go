// Package informers is the part of client-go's informer factory that Celox needs: the same calls (Core().V1().Pods().Lister()), the same informers
// and listers behind them, but only of the kinds that some room reads. client-go's own factory cannot be used in the binary: it links an informer of
// every kind and version that there ever was, each as an instance of several generic types, which were 8 MB of it.
//
// A room that needs another kind adds one line to kinds.go. The package knows neither the store nor the server; package client makes the informers
// that take their objects from the store.
package informers
