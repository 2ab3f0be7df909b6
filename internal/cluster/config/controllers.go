package config

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// SchedulerName is what the scheduler is called among the controllers.
const SchedulerName = "scheduler"

// Of the names of upstream's kube-controller-manager, these are not the names of the accounts that do the work in kube-system, which Celox calls its controllers by.
var upstreamNames = map[string]string{ // read-only
	"bootstrap-signer-controller":                                    "bootstrap-signer",
	"certificatesigningrequest-approving-controller":                 "certificate-controller",
	"certificatesigningrequest-cleaner-controller":                   "certificate-controller",
	"certificatesigningrequest-signing-controller":                   "certificate-controller",
	"daemonset-controller":                                           "daemon-set-controller",
	"endpoints-controller":                                           "endpoint-controller",
	"garbage-collector-controller":                                   "generic-garbage-collector",
	"horizontal-pod-autoscaler-controller":                           "horizontal-pod-autoscaler",
	"kube-apiserver-serving-clustertrustbundle-publisher-controller": "kube-apiserver-serving-clustertrustbundle-publisher",
	"legacy-serviceaccount-token-cleaner-controller":                 "legacy-service-account-token-cleaner",
	"node-lifecycle-controller":                                      "node-controller",
	"persistentvolume-attach-detach-controller":                      "attachdetach-controller",
	"persistentvolume-binder-controller":                             "persistent-volume-binder",
	"persistentvolume-expander-controller":                           "expand-controller",
	"persistentvolume-protection-controller":                         "pv-protection-controller",
	"persistentvolumeclaim-protection-controller":                    "pvc-protection-controller",
	"pod-garbage-collector-controller":                               "pod-garbage-collector",
	"podcertificaterequest-cleaner-controller":                       "podcertificaterequestcleaner",
	"replicationcontroller-controller":                               "replication-controller",
	"resourceclaim-controller":                                       "resource-claim-controller",
	"root-ca-certificate-publisher-controller":                       "root-ca-cert-publisher",
	"service-cidr-controller":                                        "service-cidrs-controller",
	"serviceaccount-controller":                                      "service-account-controller",
	"serviceaccount-token-controller":                                "tokens-controller",
	"token-cleaner-controller":                                       "token-cleaner",
}

// missingControllers are upstream's that Celox does without. They can be left out, which changes nothing, but not asked for.
var missingControllers = []string{ // read-only
	"podgroup-protection-controller", "resourcepoolstatusrequest-controller", "selinux-warning-controller", "storageversion-garbage-collector-controller",
}

// Runs says whether the controller of that name, which is Celox's own, is wanted. Of two words about it the first counts; without a list all are wanted.
func (s *Server) Runs(controller string) bool {
	all := s.Controllers == nil
	for _, word := range s.Controllers {
		name, not := strings.CutPrefix(word, "-")
		switch {
		case word == "*":
			all = true
		case name == controller || upstreamNames[name] == controller:
			return !not
		}
	}
	return all
}

// CheckControllers wants every word about controllers to be about one of these.
func (s *Server) CheckControllers(known []string) error {
	for _, word := range s.Controllers {
		name, not := strings.CutPrefix(word, "-")
		if word == "*" || word == "" || upstreamNames[name] != "" || slices.Contains(known, name) || not && slices.Contains(missingControllers, name) {
			continue
		}
		all := slices.Sorted(slices.Values(append(slices.Collect(maps.Keys(upstreamNames)), known...)))
		if slices.Contains(missingControllers, name) {
			return fmt.Errorf("--controllers: Celox has no %s", name)
		}
		if like := closest(name, all); like != "" {
			return fmt.Errorf("--controllers: there is no %q: did you mean %q?", name, like)
		}
		return fmt.Errorf("--controllers: there is no %q; there are %s", name, strings.Join(slices.Compact(all), ", "))
	}
	return nil
}
