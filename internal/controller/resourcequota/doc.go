// Package resourcequota keeps the status of ResourceQuotas: the limits that are in force, and what the objects of the namespace use of
// them. Admission adds to the usage what it lets in; this controller counts anew when a quota changes, when something goes away or gets
// smaller, and now and then to be sure. It gives back only what was not used for a moment in which nobody was charged: what admission
// charged for may not be to be seen yet.
//
// It reads every namespaced kind through the informers of the process, and kinds that have none there (custom ones) through metadata
// informers of its own, as long as some quota counts them. It writes the status of quotas and nothing else, and knows no other controller.
package resourcequota
