package policy

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

func TestDomains(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		domains  string // as the API has them
		has, not string
	}{
		{"kubernetes.io", "kubernetes.io", "www.kubernetes.io blog.kubernetes.io my-kubernetes.io wikipedia.org io"},
		{"blog.kubernetes.io", "blog.kubernetes.io", "www.kubernetes.io kubernetes.io"},
		{"*.kubernetes.io", "www.kubernetes.io blog.kubernetes.io latest.blog.kubernetes.io", "kubernetes.io wikipedia.org my-kubernetes.io io"},
		{"A.Example. *.B.Example", "a.example x.b.example", "x.a.example b.example"},
		{"*.example.org *.a.example.org", "a.example.org b.a.example.org", "example.org"},
		{"", "", "a.example"},
	} {
		var list []string
		for text := range strings.FieldsSeq(tt.domains) {
			n, err := parseDomain(text)
			if err != nil {
				t.Fatal(err)
			}
			list = append(list, n)
		}
		d := newDomains(list)
		for n := range strings.FieldsSeq(tt.has) {
			if !d.has(n) {
				t.Errorf("%s has not %s", tt.domains, n)
			}
		}
		for n := range strings.FieldsSeq(tt.not) {
			if d.has(n) {
				t.Errorf("%s has %s", tt.domains, n)
			}
		}
		if slices.Sort(list); !slices.Equal(d.list(), list) || !d.equal(newDomains(d.list())) {
			t.Errorf("made of %v, and it says %v", list, d.list())
		}
	}
}

func TestParseDomain(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", ".", "example", "*", "*.", "*.example", "a.*.example", "w*.example.org", "a..b", ".a.b", "-a.b", "a-.b", "_a.b", "a b.c", "ä.example", "10.0.0.0/8", strings.Repeat("a", 64) + ".b", strings.Repeat("a.", 127) + "a"} {
		if n, err := parseDomain(text); err == nil {
			t.Errorf("%q is %q", text, n)
		}
	}
	if n, err := parseDomain("*.My_Host-1.Example."); n != "*.my_host-1.example" || err != nil {
		t.Errorf("%q, %v", n, err)
	}
}

func FuzzParseDomain(f *testing.F) {
	f.Add("*.a.example.")
	f.Add("A_1.b")
	f.Fuzz(func(t *testing.T, text string) {
		n, err := parseDomain(text)
		if err != nil {
			return
		}
		if again, err := parseDomain(n); again != n || err != nil {
			t.Errorf("%q is %q and then %q, %v", text, n, again, err)
		}
		rest := strings.TrimPrefix(n, anyBelow)
		if d := newDomains([]string{n}); d.has(rest) == (rest != n) || d.has("x."+rest) != (rest != n) {
			t.Errorf("%q is %q", text, n)
		}
	})
}

// TestDomainPeers are those of rules that may have them, and of those that may not.
func TestDomainPeers(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		rule  string
		names bool
		want  string
		wrong string
	}{
		{`{action: Accept, to: [{domainNames: [B.example., "*.a.example"]}, {domainNames: [b.example]}]}`, true, "0 [*.a.example b.example]", ""},
		{`{action: Accept, to: [{domainNames: [b.example]}]}`, false, "0 []", "--disable=dns"},
		{`{action: Accept, to: [{domainNames: [b.example, example]}]}`, true, "0 [b.example]", `"example" is no domain name`},
		{`{action: Deny, to: [{domainNames: [b.example]}]}`, true, "1 [] everybody", "with the action Accept"},
		{`{action: Pass, to: [{domainNames: [b.example]}]}`, true, "1 [] everybody", "with the action Accept"},
	} {
		in := &ClusterNetworkPolicy{}
		if err := yaml.UnmarshalStrict([]byte("spec: {tier: Admin, subject: {namespaces: {}}, egress: ["+tt.rule+"]}"), in); err != nil {
			t.Fatal(err)
		}
		p, err := parseCluster(in, tt.names)
		if (err == nil) != (tt.wrong == "") || err != nil && !strings.Contains(err.Error(), tt.wrong) {
			t.Errorf("%s: wrong: %v", tt.rule, err)
		}
		r := p.rules[Egress][0]
		got := fmt.Sprint(r.verdict, r.domains)
		if r.anybody {
			got += " everybody"
		}
		if got = strings.Replace(got, "[", " [", 1); strings.Join(strings.Fields(got), " ") != tt.want {
			t.Errorf("%s: got %s, want %s", tt.rule, got, tt.want)
		}
	}
}
