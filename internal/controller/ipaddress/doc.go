// Package ipaddress keeps an IPAddress object for each cluster IP that a service has (KEP-1880), so that people and other controllers see
// what is taken. Services are the truth: an object that is missing is made, one whose service is gone or has another address now is
// removed. Objects that somebody else made are left alone; who gives out cluster IPs does not give those.
//
// It reads services and IPAddresses and writes IPAddresses. It must not know how addresses are chosen.
package ipaddress
