// Package statefulset keeps the pods of StatefulSets: each with a name, an ordinal and claims of its own, made and removed in order (or all at
// once), and replaced from the last to the first when the template changes. It makes claims; binding them to volumes is not its business.
package statefulset
