package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"
)

// Direction is that of a connection as its pod sees it.
type Direction int

// The directions.
const (
	Ingress Direction = iota
	Egress
)

func (d Direction) String() string {
	if d == Ingress {
		return "ingress"
	}
	return "egress"
}

// Verdict is what a rule says of a connection that it matches.
type Verdict uint8

// The verdicts.
const (
	Allow Verdict = iota
	Deny
	Pass // on to the next tier
)

const anyPort = 0xffff // the last port of "all ports"

// Rule matches connections by everything that is set.
type Rule struct {
	// Set has the peers (for a set of ports: with protocol and port); empty is everybody.
	Set string
	// Protocol is an IP protocol number; 0 is every protocol.
	Protocol uint8
	// First and Last are ports of the destination, for a Protocol.
	First, Last uint16
	// Standing leaves out connections that have not been answered yet.
	Standing bool `json:",omitempty"`
	Verdict  Verdict
}

// Chain decides about one direction of pods that have the same rules. The first rule that matches counts.
type Chain struct {
	Direction Direction
	// Admin are the rules of the Admin tier.
	Admin []Rule
	// Isolated says that what no rule of Rest allows is denied: a NetworkPolicy selects the pod. Otherwise Rest is the Baseline tier, and the end of it allows.
	Isolated bool
	Rest     []Rule
}

// name follows from what the chain says, so that equal chains are one.
func (c *Chain) name() string {
	return c.Direction.String() + "-" + hash(fmt.Sprint(c.Admin, c.Isolated, c.Rest))
}

// closed is the name of the chain, which needs not be made, that drops everything.
const closed = "closed"

func hash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:16])
}

// SetKind says what the elements of a set are.
type SetKind uint8

// The kinds of sets.
const (
	Pods     SetKind = iota // addresses
	Networks                // ranges of addresses
	Ports                   // addresses with protocol and port
)

// Element is one of a Set.
type Element struct {
	Addr     netip.Addr
	Last     netip.Addr // the end of a range that begins with Addr, for Networks
	Protocol uint8      // for Ports
	Port     uint16     // for Ports
}

// Set is shared by all rules that mean the same.
type Set struct {
	Kind SetKind
	// Elements says how many pods have each; two may have one address for a moment.
	Elements map[Element]int
}

// Desired is what the kernel is to hold. It belongs to the compiler; others read it between two changes.
type Desired struct {
	Sets   map[string]*Set
	Chains map[string]*Chain
	// Pods are the restricted addresses of this node, with the names of the chains that decide about them.
	Pods map[netip.Addr]Restriction
}

// Restriction names the chain of each direction of a pod; an empty name is free, "closed" drops all.
type Restriction [2]string

func newDesired() *Desired {
	return &Desired{Sets: map[string]*Set{}, Chains: map[string]*Chain{}, Pods: map[netip.Addr]Restriction{}}
}

// Dirty names what may have changed in a Desired.
type Dirty struct {
	Sets   map[string]map[Element]struct{} // a set that came or went is there, perhaps without elements
	Chains map[string]struct{}
	Pods   map[netip.Addr]struct{}
}

func newDirty() *Dirty {
	return &Dirty{Sets: map[string]map[Element]struct{}{}, Chains: map[string]struct{}{}, Pods: map[netip.Addr]struct{}{}}
}

func (d *Dirty) empty() bool { return len(d.Sets) == 0 && len(d.Chains) == 0 && len(d.Pods) == 0 }

func (d *Dirty) set(name string) map[Element]struct{} {
	m := d.Sets[name]
	if m == nil {
		m = map[Element]struct{}{}
		d.Sets[name] = m
	}
	return m
}

func netsName(nets []Element) string {
	text := make([]byte, 0, len(nets)*32)
	for _, e := range nets {
		text = append(e.Last.AppendTo(append(e.Addr.AppendTo(text), '-')), ' ')
	}
	return "nets-" + hash(string(text))
}

// namesName is for a set of addresses that names have, or of those that they had.
func namesName(list []string, lapsed bool) string {
	if lapsed {
		return "lapsed-" + hash(strings.Join(list, " "))
	}
	return "names-" + hash(strings.Join(list, " "))
}

func portsName(s selector, p namedPort) string {
	return "ports-" + hash(fmt.Sprint(p.protocol, " ", p.name, " ", s.key))
}
