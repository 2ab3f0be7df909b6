// Package observed measures an engine: how long its requests take, by operation and resource, and how large its database is, under the
// names that upstream's API server gives these metrics. It knows keys by the prefixes that it is told, and nothing of what is stored.
package observed
