package flow

import (
	"io"
	"net/http"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// Debug returns the handlers of the debugging pages by path: the levels, the queues and the requests as lines of comma-separated values.
// They name who asks for what, so only administrators may see them; the caller authorizes.
func (f *Filter) Debug() map[string]http.Handler {
	page := func(write func(w *sheet, r *http.Request)) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
			s := &sheet{w: tabwriter.NewWriter(w, 8, 0, 1, ' ', 0)}
			write(s, r)
			_ = s.w.Flush() // a client that is gone
		})
	}
	const root = "/debug/api_priority_and_fairness/"
	return map[string]http.Handler{
		root + "dump_priority_levels": page(f.dumpLevels),
		root + "dump_queues":          page(f.dumpQueues),
		root + "dump_requests":        page(f.dumpRequests),
	}
}

// sheet writes rows.
type sheet struct{ w *tabwriter.Writer }

func (s *sheet) row(cells ...string) {
	_, _ = io.WriteString(s.w, strings.Join(cells, ",\t")+"\n") // fails only with the client
}

func number[T int | int64](n T) string { return strconv.FormatInt(int64(n), 10) }

func seatSeconds(f float64) string { return strconv.FormatFloat(f, 'f', 8, 64) + "ss" }

func (f *Filter) dumpLevels(w *sheet, _ *http.Request) {
	w.row("PriorityLevelName", "ActiveQueues", "IsIdle", "IsQuiescing", "WaitingRequests", "ExecutingRequests", "DispatchedRequests",
		"RejectedRequests", "TimedoutRequests", "CancelledRequests")
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, l := range f.sorted() {
		l.mu.Lock()
		active := 0
		for _, q := range l.queues {
			if q.line.n > 0 {
				active++
			}
		}
		w.row(l.name, number(active), strconv.FormatBool(l.executing == 0 && l.waiting == 0), strconv.FormatBool(l.quiescing),
			number(l.waiting), number(l.executing), number(l.dispatched), number(l.refused), number(l.timedOut), number(l.gone))
		l.mu.Unlock()
	}
}

func (f *Filter) dumpQueues(w *sheet, _ *http.Request) {
	w.row("PriorityLevelName", "Index", "PendingRequests", "ExecutingRequests", "SeatsInUse", "NextDispatchR", "InitialSeatsSum", "MaxSeatsSum", "TotalWorkSum")
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, l := range f.sorted() {
		l.mu.Lock()
		for i, q := range l.queues {
			first, work := 0, 0.0
			for t := q.line.head; t != nil; t = t.next {
				first += t.width.seats
				work += float64(t.seats) * (estimate + t.after).Seconds()
			}
			w.row(l.name, number(i), number(q.line.n), number(q.executing), number(q.seats), seatSeconds(q.next),
				number(first), number(q.waitingSeats), seatSeconds(work))
		}
		l.mu.Unlock()
	}
}

func (f *Filter) dumpRequests(w *sheet, r *http.Request) {
	details := r.URL.Query().Get("includeRequestDetails") != ""
	head := []string{"PriorityLevelName", "FlowSchemaName", "QueueIndex", "RequestIndexInQueue", "FlowDistingsher", "ArriveTime",
		"InitialSeats", "FinalSeats", "AdditionalLatency", "StartTime"}
	if details {
		head = append(head, "UserName", "Verb", "APIPath", "Namespace", "Name", "APIVersion", "Resource", "SubResource")
	}
	w.row(head...)
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, l := range f.sorted() {
		l.mu.Lock()
		where := map[*queue]int{nil: -1}
		for i, q := range l.queues {
			where[q] = i
			n := 0
			for t := q.line.head; t != nil; t = t.next {
				w.row(t.cells(l.name, i, n, details)...)
				n++
			}
		}
		for t := l.sitting.head; t != nil; t = t.next {
			w.row(t.cells(l.name, where[t.queue], -1, details)...)
		}
		l.mu.Unlock()
	}
}

func (t *Ticket) cells(level string, queue, index int, details bool) []string {
	moment := func(at time.Time) string { return at.UTC().Format(time.RFC3339Nano) }
	out := []string{level, t.schema.name, number(queue), number(index), t.by, moment(t.arrived), number(t.width.seats), number(t.final),
		t.after.String(), moment(t.started)}
	if details {
		i := t.info
		version := i.Version
		if i.Group != "" {
			version = i.Group + "/" + version
		}
		out = append(out, t.user.GetName(), i.Verb, i.Path, i.Namespace, i.Name, version, i.Resource, i.Subresource)
	}
	return out
}
