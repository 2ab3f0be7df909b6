// Package config is what a user can set: one table of keys that are command line flags, keys of a YAML file and CELOX_ variables alike, in
// falling order of precedence flag, variable, file, default. Complete says what is wrong with any of the values, all at once and before anything is
// written, so it also reads the files that they name. Of the rooms of the cluster it knows only how they read these.
package config
