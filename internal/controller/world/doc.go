// Package world holds no code but tests: the API on the memory engine with the scheduler, all controllers and hollow nodes, in the virtual time of
// testing/synctest, under faults. A process of controllers can be killed after any of its writes, its requests refused, answered late or with an error
// although they were carried out, its watches cut or delayed, its clock moved. Whatever happens, the cluster has to end as it does when all is well,
// and then be quiet.
//
// No sockets are needed: clients call the API's handler through an http.RoundTripper that does the harm, and watches are pipes, so that the whole
// cluster lives in one bubble. Flags lengthen the runs: -world.every 1 crashes after each write, -world.seeds N plays N random worlds (none unless asked for).
package world
