// Package cdi gives containers what a device needs besides its node file (Container Device Interface, CNCF TAG Runtime, specification 1.1.0): drivers write
// files that say, for each of their devices by name, which variables, device files, mounts and groups a container must get, and the
// container's configuration names devices.
//
// [Apply] reads the files anew each time: drivers write them just before a container starts. It knows neither pods nor claims. Hooks and
// net devices are refused, since the holder that starts containers has neither.
package cdi
