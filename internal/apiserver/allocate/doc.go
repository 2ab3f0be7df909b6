// Package allocate gives services their cluster IPs and node ports. What is taken is derived from the services that exist,
// nothing else is kept, so nothing can leak. The package knows the rules of address families (KEP-563) and ranges, but not where services are
// stored or who writes them.
package allocate
