package config

import (
	"maps"
	"slices"
	"strconv"
	"strings"
)

// SchedulerName is what the scheduler is called among the controllers.
const SchedulerName = "scheduler"

// Controllers are the names of all controllers, as --controllers knows them, the scheduler's among them.
func Controllers() []string {
	return []string{
		"attachdetach-controller", "bootstrap-signer", "celox-ingress-controller", "celox-network-policy-controller",
		"certificate-controller", "clusterrole-aggregation-controller", "cronjob-controller", "daemon-set-controller",
		"deployment-controller", "device-taint-eviction-controller", "disruption-controller", "endpoint-controller",
		"endpointslice-controller", "endpointslice-mirroring-controller", "ephemeral-volume-controller", "expand-controller",
		"generic-garbage-collector", "horizontal-pod-autoscaler", "ipaddress", "job-controller",
		"kube-apiserver-serving-clustertrustbundle-publisher", "kubelet-serving-approver", "legacy-service-account-token-cleaner", "legacy-token-tracking",
		"namespace-controller", "node-controller", "node-ipam-controller", "persistent-volume-binder",
		"pod-garbage-collector", "podcertificaterequestcleaner", "pv-protection-controller", "pvc-protection-controller",
		"replicaset-controller", "replication-controller", "resource-claim-controller", "resourcequota-controller",
		"root-ca-cert-publisher", SchedulerName, "service-account-controller", "service-cidrs-controller",
		"service-lb-controller", "statefulset-controller", "storage-version-migrator-controller", "taint-eviction-controller",
		"token-cleaner", "tokens-controller", "ttl-after-finished-controller", "ttl-controller",
		"validatingadmissionpolicy-status-controller", "volumeattributesclass-protection-controller",
	}
}

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

// checkControllers wants every word about controllers to be about one that there is.
func (s *Server) checkControllers(bad func(key, format string, args ...any)) {
	const key = "controllers"
	known := Controllers()
	all := slices.Compact(slices.Sorted(slices.Values(append(slices.Collect(maps.Keys(upstreamNames)), known...))))
	var unknown []string
	for _, word := range s.Controllers {
		name, not := strings.CutPrefix(word, "-")
		if word == "*" || word == "" || upstreamNames[name] != "" || slices.Contains(known, name) || not && slices.Contains(missingControllers, name) {
			continue
		}
		if slices.Contains(missingControllers, name) {
			bad(key, "Celox has no %s", name)
		} else if like := closest(name, all); like != "" {
			bad(key, "there is no %q: did you mean %q?", name, like)
		} else {
			unknown = append(unknown, strconv.Quote(name))
		}
	}
	if len(unknown) > 0 {
		bad(key, "there is no %s; there are %s", strings.Join(unknown, ", "), strings.Join(all, ", "))
	}
}
