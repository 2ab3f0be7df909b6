// Package env makes the environment of a container: literals with $(VAR) references, fields of the pod, config maps,
// secrets, files in volumes, and the variables of services.
//
// It asks for config maps and secrets through Sources and must not know where they come from.
package env
