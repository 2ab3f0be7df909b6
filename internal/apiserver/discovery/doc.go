// Package discovery tells clients what the API serves: the legacy documents (/api, /apis, /apis/GROUP, /apis/GROUP/VERSION) and
// the aggregated one (KEP-3352). The documents are made once from the catalogue of built-in kinds and again when the groups
// of custom resources and aggregated servers change; a request is answered with prepared bytes and an ETag.
//
// It knows nothing of requests beyond their path and what they accept, and nothing of where custom groups come from.
package discovery
