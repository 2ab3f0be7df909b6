package cluster

import (
	"net/http"

	"github.com/celox/celox/internal/client"
)

// Simulation is how a simulator looks into a server.
type Simulation struct {
	// Ready is called once, when the API serves and the controllers have been started, with the API: requests whose context has a user (request.WithUser) are
	// made as that user, and with what informers can take from the store.
	Ready func(api http.Handler, sources []client.Source)
	// Without names controllers that are not started, e.g. "node-controller" where nodes have no kubelets.
	Without []string
}

// Simulate prepares a server that hasn't been started for a simulation.
func (s *Server) Simulate(x Simulation) { s.simulation = x }
