// Package endpoints keeps the Endpoints object of every Service with a selector, for the clients that still read those instead of
// EndpointSlices.
package endpoints
