// Package devicetainteviction deletes pods whose devices have taints of effect NoExecute that their claims do not tolerate, or no longer (KEP-5055).
// Taints come from drivers, in ResourceSlices, and from administrators, in DeviceTaintRules.
package devicetainteviction
