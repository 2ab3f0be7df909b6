package explain

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
)

// maxShown is how many nodes are shown to people; all of them are in the JSON.
const maxShown = 20

// JSON writes the report.
func (r *Report) JSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

// Text writes the report for people.
func (r *Report) Text(w io.Writer) error {
	var b strings.Builder
	b.WriteString(r.Summary + "\n")
	if r.Advice != "" {
		fmt.Fprintf(&b, "What to do: %s.\n", r.Advice)
	}
	if r.Message != "" {
		fmt.Fprintf(&b, "The scheduler said: %s\n", r.Message)
	}
	if len(r.Unread) > 0 {
		fmt.Fprintf(&b, "Not looked at, because you may not read them: %s.\n", strings.Join(r.Unread, ", "))
	}
	if len(r.Nodes) > 0 {
		b.WriteString("\n")
		t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
		_, _ = fmt.Fprintln(t, "NODE\tVERDICT\tPLUGIN\tWHAT TO CHANGE") // to a strings.Builder, which never fails
		shown := r.Nodes[:min(len(r.Nodes), maxShown)]
		if i := slices.IndexFunc(r.Nodes, func(n Node) bool { return n.Name == r.Node }); i >= maxShown {
			shown = append(slices.Clip(shown), r.Nodes[i])
		}
		for _, n := range shown {
			name := n.Name
			if name == r.Node {
				name += " *"
			}
			switch {
			case n.Fits && r.Obstacle != "":
				_, _ = fmt.Fprintf(t, "%s\twould fit otherwise\t\t\n", name)
			case n.Fits:
				_, _ = fmt.Fprintf(t, "%s\tfits, score %d\t\t\n", name, n.Score)
			}
			for i, p := range n.Problems {
				verdict := "doesn't fit"
				if i > 0 {
					name, verdict = "", ""
				}
				_, _ = fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", name, verdict, p.Plugin, p.Change)
			}
		}
		_ = t.Flush()
		if more := len(r.Nodes) - len(shown); more > 0 {
			fmt.Fprintf(&b, "... and %d more nodes (-o json shows all)\n", more)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}
