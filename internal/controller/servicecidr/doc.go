// Package servicecidr tells of each ServiceCIDR that it is ready, and keeps one that is being deleted until no address is left that
// comes from it alone (KEP-1880).
//
// It reads ServiceCIDRs and IPAddresses and writes ServiceCIDRs. It must not know who gives out the addresses.
package servicecidr
