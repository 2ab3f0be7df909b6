// Package persistentvolume binds claims to volumes: it finds the smallest volume that satisfies a claim, writes the link into both, keeps their
// phases, hands claims of classes with a provisioner over to that provisioner, and gives volumes back when their claims are gone.
//
// What to do next is decided by two functions without I/O, decideClaim and decideVolume; the Controller looks up what they ask for and
// writes what they say. A link has two ends that cannot be written at once: first the volume names the claim, then the claim the volume, so
// that after a crash between any two writes the next look at either object goes on from there.
//
// Claims of classes that wait for their first consumer are bound by the scheduler, which writes the volume's end (or names a node for the
// provisioner); this package finishes them. It mounts, attaches and provisions nothing, and must not know nodes.
package persistentvolume
