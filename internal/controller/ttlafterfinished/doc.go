// Package ttlafterfinished deletes Jobs whose spec.ttlSecondsAfterFinished has passed since they ended.
package ttlafterfinished
