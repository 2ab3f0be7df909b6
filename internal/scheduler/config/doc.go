// Package config reads the scheduler's configuration file: KubeSchedulerConfiguration of kubescheduler.config.k8s.io/v1.
//
// Parse is strict: an unknown key, a value of the wrong type or one that makes no sense is an error with its line. What it returns is complete. Defaults are
// upstream's and are filled in; each profile lists, for every extension point, the plugins that run there, in their order and with their weights, so that
// nobody else needs to know about "*" and multiPoint; arguments of plugins have their types.
//
// The package knows the names of the plugins and where each of them works, nothing of what they do, and no API server.
package config
