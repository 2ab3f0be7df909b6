// Package ephemeralvolume makes the claims of generic ephemeral volumes: one per volume, owned by its pod and gone with it. Binding is another's
// business.
package ephemeralvolume
