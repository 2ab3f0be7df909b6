// Package flow is API priority and fairness (KEP-1040): it shares the server's capacity among its clients, so that one who
// misbehaves slows down itself and nobody else.
//
// A request is matched to a FlowSchema, which names a priority level and how its requests are told apart into flows. A level has seats;
// a request takes one or more of them while it is served, waits in one of the level's queues while none is free, and is refused when
// that queue is full or the wait gets too long. Flows are spread over queues by shuffle sharding, and queues take turns in virtual
// time, so that each flow gets its share whatever the others ask. Levels lend each other the seats that they do not use.
//
// The configuration is whatever the store holds at the moment; the two objects of each kind without which a server could not decide
// (exempt, catch-all) are assumed where the store lacks them.
//
// The package knows nothing of HTTP and of what a request does: whoever serves it calls Enter before and Leave after.
package flow
