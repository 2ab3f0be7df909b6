// Package pvprotection keeps volumes that are bound: one that is being deleted stays, by a finalizer, while a claim is bound to it. It must not
// know claims: the volume's phase says enough.
package pvprotection
