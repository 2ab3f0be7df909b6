// Package events holds the second door to the core group's events: the version events.k8s.io/v1, which shows the same stored
// objects with other field names and checks them more strictly.
package events
