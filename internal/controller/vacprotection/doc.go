// Package vacprotection keeps VolumeAttributesClasses that claims or volumes name: one that is being deleted stays, by a finalizer, until nobody
// does (KEP-3751).
package vacprotection
