// Package shortcut carries standing TCP connections between two pods of one node from the interface of one straight to that of the other, past the machine's
// routing, connection tracking and rules.
//
// A packet takes it only if all of this holds:
//
//   - Both pods are free: whoever enforces policies said so ([Shortcut.Widen]). [Shortcut.Narrow] takes pods off before rules for them come into force, and the
//     kernel asks for each packet. So a policy acts on connections that stand with the next packet, as it does without a shortcut. Who is not known to be free is not.
//   - It comes by the interface that its source address belongs to.
//   - It belongs to a connection that was opened through the machine with the same addresses and ports at both ends: the answer to the first packet acknowledged the first
//     packet's own sequence number. What services or others translate is translated in the machine.
//   - It is not one of the connection's first packets (the machine's connection tracking has to know that it stands), nor the first in a while (lest it is forgotten), nor
//     one that opens or ends a connection.
//
// Everything else goes the way that it goes without this package, as do the packets of kernels that are too old (before 5.11). When the process ends, however it ends, so does
// the shortcut, and connections go on through the machine.
//
// program.go is what the kernel does with a packet, shortcut.go tells it of pods. The package knows neither the pod network nor policies.
package shortcut
