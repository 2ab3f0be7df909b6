// Package catalogue puts the kinds of all groups together. It is the one place that names every group; a new group is a
// line here.
package catalogue
