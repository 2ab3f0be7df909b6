// Package route decides where a request goes. Compile turns Ingresses, classes, services and secrets into a Table, a value that never changes; Table.Find
// answers for a host and a path. Both are functions of what they are given: no clock, no socket, no client. What is wrong with an Ingress comes back as a
// Problem, and the rest of it works.
//
// Whoever writes an Ingress is not trusted: annotations are parsed into numbers, names and addresses, and none is ever text of a configuration.
package route
