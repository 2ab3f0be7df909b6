// Package config is what a user can set: one table of keys that are command line flags, keys of a YAML file and CELOX_ variables alike, in
// falling order of precedence flag, variable, file, default. It knows no room of the cluster, only names, types and what is wrong with a value.
package config
