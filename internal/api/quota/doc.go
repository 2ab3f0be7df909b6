// Package quota computes what objects use of a ResourceQuota: which names they count for, how much, and whether a quota's scopes are
// about them. Admission charges by it, and the quota controller counts by it. The functions are pure.
package quota
