// Celox-runtime is the small process that holds the containers of a node. It
// is embedded in celox, which unpacks and starts it; people do not run it by
// hand.
//
// In the mode "hold" it serves the requests of package holder: it starts
// containers with opencontainers/runc/libcontainer, is their parent, writes
// their output to CRI log files, and remembers how they ended. The same program
// is executed again, as "init", to become each container: that is why it must
// stay small, and knows neither Kubernetes nor gRPC.
//
// Three rules let containers outlive everything:
//
//   - Their output goes through FIFOs which they hold open for reading as well,
//     so that writing never fails when the holder is gone; no process has a
//     parent death signal.
//   - What is known of a task is in its journal record before it is true for
//     others. A new holder reads the records, proves by start time and boot id
//     that a pid is still the same process, and watches it through a pidfd.
//   - An upgrade executes the new program in the same process (handover.go), so
//     the containers remain its children and no output is lost.
package main
