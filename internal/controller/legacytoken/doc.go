// Package legacytoken ends tokens of service accounts that live in secrets which nobody asked for: what Kubernetes made for each account before v1.24. The
// API server's authenticator labels a secret with the day on which its token was last used. Tracker says since when that is done; Cleaner marks what was
// not used for a year as invalid, and removes it after another one (KEP-2799). It knows days, labels and who names a secret, not how tokens are checked.
package legacytoken
