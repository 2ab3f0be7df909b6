// Package cdi gives containers what a device needs besides its node file (Container Device Interface, CNCF TAG Runtime, specification 1.1.0): drivers write
// files that say, for each of their devices by name, which variables, device files, mounts, groups and hooks a container must get, and the
// container's configuration names devices.
//
// [Apply] reads the files anew each time: drivers write them just before a container starts. It knows neither pods nor claims. Net
// devices and Intel's RDT are refused, since nothing here moves or sets them.
package cdi
