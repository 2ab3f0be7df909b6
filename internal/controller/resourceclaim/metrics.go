package resourceclaim

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/client-go/tools/cache"
)

// claimCounts is how many claims there are, counted when somebody asks; upstream's name.
type claimCounts struct{ claims cache.Store }

var claimsDesc = prometheus.NewDesc("dynamic_resource_allocation_resource_claims",
	"Number of ResourceClaims, categorized by allocation status, admin access, and source. Source can be 'resource_claim_template' (created from a template), 'extended_resource' (extended resources), or empty (manually created by a user).", []string{"allocated", "admin_access", "source"}, nil)

// Describe implements prometheus.Collector.
func (claimCounts) Describe(out chan<- *prometheus.Desc) { out <- claimsDesc }

// Collect implements prometheus.Collector.
func (c claimCounts) Collect(out chan<- prometheus.Metric) {
	type row struct {
		allocated, admin bool
		source           string
	}
	n := map[row]float64{}
	for _, obj := range c.claims.List() {
		claim, ok := obj.(*resourcev1.ResourceClaim)
		if !ok {
			continue
		}
		source := "" // somebody made it by hand
		if _, ok := claim.Annotations[podClaimAnnotation]; ok {
			source = "resource_claim_template"
		} else if claim.Annotations[resourcev1.ExtendedResourceClaimAnnotation] != "" {
			source = "extended_resource"
		}
		n[row{claim.Status.Allocation != nil, isAdmin(&claim.Spec), source}]++
	}
	for r, value := range n {
		out <- prometheus.MustNewConstMetric(claimsDesc, prometheus.GaugeValue, value, strconv.FormatBool(r.allocated), strconv.FormatBool(r.admin), r.source)
	}
}
