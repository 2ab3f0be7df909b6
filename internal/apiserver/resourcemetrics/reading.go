package resourcemetrics

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// counted is what has been counted of a node or a container at one time.
type counted struct {
	at      time.Time     // of the CPU time
	started time.Time     // zero if nobody says
	cpu     time.Duration // used since the start
	memory  int64         // working set in bytes
	// hasCPU and hasMemory tell what was not said from what is zero.
	hasCPU, hasMemory bool
}

func (c *counted) whole() bool { return c.hasCPU && c.hasMemory }

type podKey struct{ namespace, name string }

// reading is what a node said at one time.
type reading struct {
	node counted
	pods map[podKey]map[string]*counted // containers by name
}

// The series of /metrics/resource that matter here. Of pods there are sums as well; objects show containers.
const (
	nodeCPU         = "node_cpu_usage_seconds_total"
	nodeMemory      = "node_memory_working_set_bytes"
	containerCPU    = "container_cpu_usage_seconds_total"
	containerMemory = "container_memory_working_set_bytes"
	containerStart  = "container_start_time_seconds"
)

// read understands the text format of Prometheus (version 0.0.4) as far as it matters. at is when a series was read that does not say
// it itself. Series that are not known are not looked at; a line that is none is an error, because then it is no such document.
func read(text string, at time.Time) (*reading, error) {
	r := &reading{pods: map[podKey]map[string]*counted{}}
	number := 0
	for line := range strings.Lines(text) {
		number++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		name := line[:nameEnd(line)]
		switch name {
		case nodeCPU, nodeMemory, containerCPU, containerMemory, containerStart:
		case "":
			return nil, fmt.Errorf("line %d of the metrics is no series", number)
		default:
			continue
		}
		labels, value, when, err := series(line[len(name):], at)
		if err != nil {
			return nil, fmt.Errorf("line %d of the metrics: %s: %w", number, name, err)
		}
		c := &r.node
		if name != nodeCPU && name != nodeMemory {
			if c = r.container(labels); c == nil {
				continue
			}
		}
		switch name {
		case nodeCPU, containerCPU:
			c.cpu, c.at, c.hasCPU = time.Duration(value*float64(time.Second)), when, true
		case nodeMemory, containerMemory:
			c.memory, c.hasMemory = int64(value), true
		case containerStart:
			c.started = time.Unix(0, int64(value*float64(time.Second)))
		}
	}
	return r, nil
}

// container is the place of a container; nil if the labels name none.
func (r *reading) container(labels map[string]string) *counted {
	key, name := podKey{labels["namespace"], labels["pod"]}, labels["container"]
	if key.namespace == "" || key.name == "" || name == "" {
		return nil
	}
	pod := r.pods[key]
	if pod == nil {
		pod = map[string]*counted{}
		r.pods[key] = pod
	}
	c := pod[name]
	if c == nil {
		c = &counted{}
		pod[name] = c
	}
	return c
}

func nameEnd(s string) int {
	for i := range len(s) {
		if c := s[i]; !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == ':') {
			return i
		}
	}
	return len(s)
}

// The largest values that are believed: more than any machine has, and safe to turn into integers.
const maxValue = 1 << 53

// series reads what follows the name of a series: labels, value and time.
func series(s string, at time.Time) (map[string]string, float64, time.Time, error) {
	labels, s, err := labelsOf(s)
	if err != nil {
		return nil, 0, at, err
	}
	parts := strings.Fields(s)
	if len(parts) != 1 && len(parts) != 2 {
		return nil, 0, at, fmt.Errorf("%q is no value", s)
	}
	value, err := strconv.ParseFloat(parts[0], 64)
	if err != nil {
		return nil, 0, at, fmt.Errorf("%q is no value", parts[0])
	}
	// Seconds are turned into nanoseconds, which have room for 292 years; and this sorts out what is no number.
	if !(value >= 0 && value < maxValue) {
		return nil, 0, at, fmt.Errorf("%v cannot be", value)
	}
	if len(parts) == 2 {
		ms, err := strconv.ParseInt(parts[1], 10, 64)
		if err != nil {
			return nil, 0, at, fmt.Errorf("%q is no time", parts[1])
		}
		at = time.UnixMilli(ms)
	}
	return labels, value, at, nil
}

// labelsOf reads {name="value",...} if it is there, and returns what follows.
func labelsOf(s string) (map[string]string, string, error) {
	s = strings.TrimLeft(s, " \t")
	if !strings.HasPrefix(s, "{") {
		return nil, s, nil
	}
	out := map[string]string{}
	s = s[1:]
	for {
		s = strings.TrimLeft(s, " \t,")
		if rest, end := strings.CutPrefix(s, "}"); end {
			return out, rest, nil
		}
		name := s[:nameEnd(s)]
		quoted, ok := strings.CutPrefix(strings.TrimLeft(s[len(name):], " \t"), "=")
		quoted, ok2 := strings.CutPrefix(strings.TrimLeft(quoted, " \t"), `"`)
		if name == "" || !ok || !ok2 {
			return nil, "", fmt.Errorf("%q are no labels", s)
		}
		value, rest, ok := unquote(quoted)
		if !ok {
			return nil, "", fmt.Errorf("the value of the label %q does not end", name)
		}
		out[name], s = value, rest
	}
}

// unquote reads up to the closing quote. The format escapes a backslash, a quote and a new line.
func unquote(s string) (value, rest string, ok bool) {
	if end := strings.IndexAny(s, `"\`); end >= 0 && s[end] == '"' {
		return s[:end], s[end+1:], true
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '"':
			return b.String(), s[i+1:], true
		case '\\':
			i++
			if i == len(s) {
				return "", "", false
			}
			if s[i] == 'n' {
				b.WriteByte('\n')
			} else {
				b.WriteByte(s[i])
			}
		default:
			b.WriteByte(s[i])
		}
	}
	return "", "", false
}
