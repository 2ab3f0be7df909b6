package cron_test

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/celox/celox/internal/api/batch/cron"
)

func TestNext(t *testing.T) {
	for _, c := range []struct{ spec, from, want string }{
		{"*/5 * * * *", "2024-01-01T00:00:00Z", "2024-01-01T00:05:00Z"},
		{"*/5 * * * *", "2024-01-01T00:04:59Z", "2024-01-01T00:05:00Z"},
		{"0 0 29 2 *", "2024-03-01T00:00:00Z", "2028-02-29T00:00:00Z"},
		{"0 0 31 2 *", "2024-01-01T00:00:00Z", ""},
		{"0 12 13 * fri", "2024-01-01T00:00:00Z", "2024-01-05T12:00:00Z"}, // either day will do
		{"0 12 31 * */3", "2024-01-01T00:00:00Z", "2024-01-03T12:00:00Z"}, // steps restrict
		{"0 12 */16 * tue", "2024-01-01T12:00:00Z", "2024-01-02T12:00:00Z"},
		{"0 12 */1 * tue", "2024-01-02T12:00:00Z", "2024-01-09T12:00:00Z"}, // but for this one
		{"0 12 ?/1 * tue", "2024-01-02T12:00:00Z", "2024-01-09T12:00:00Z"},
		{"0 12 31,* * tue", "2024-01-02T12:00:00Z", "2024-01-09T12:00:00Z"},
		{"0 12 ? * tue", "2024-01-02T12:00:00Z", "2024-01-09T12:00:00Z"},
		{"0 12 * * fri", "2024-01-01T00:00:00Z", "2024-01-05T12:00:00Z"},
		{"1 2 3 4 5", "2024-01-01T00:00:00Z", "2024-04-03T02:01:00Z"},
		{"@hourly", "2024-12-31T23:30:00Z", "2025-01-01T00:00:00Z"},
		{"@yearly", "2024-01-01T00:00:00Z", "2025-01-01T00:00:00Z"},
		{"@every 1h30m", "2024-01-01T00:00:00Z", "2024-01-01T01:30:00Z"},
		{"5/20 1-3,7 * jan-MAR *", "2024-01-01T03:45:00Z", "2024-01-01T07:05:00Z"},
	} {
		s, err := cron.Parse(c.spec)
		if err != nil {
			t.Errorf("%q: %v", c.spec, err)
			continue
		}
		from, err := time.Parse(time.RFC3339, c.from)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		if n := s.Next(from); !n.IsZero() {
			got = n.Format(time.RFC3339)
		}
		if got != c.want {
			t.Errorf("%q from %s: %s, want %s", c.spec, c.from, got, c.want)
		}
	}
}

func TestParseErrors(t *testing.T) {
	for spec, want := range map[string]string{
		"":                 "empty spec string",
		"often":            "expected exactly 5 fields, found 1: [often]",
		"60 * * * *":       "end of range (60) above maximum (59): 60",
		"* * 0 * *":        "beginning of range (0) below minimum (1): 0",
		"5-1 * * * *":      "beginning of range (5) beyond end of range (1): 5-1",
		"*/0 * * * *":      "step of range should be a positive number: */0",
		"1-2-3 * * * *":    "too many hyphens: 1-2-3",
		"1/2/3 * * * *":    "too many slashes: 1/2/3",
		"x * * * *":        "failed to parse int from x:",
		"-1 * * * *":       "failed to parse int from ",
		"@often":           "unrecognized descriptor: @often",
		"@every x":         "failed to parse duration @every x:",
		"* * * * mon,none": "failed to parse int from none:",
	} {
		if _, err := cron.Parse(spec); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q: %v, want %s", spec, err, want)
		}
	}
}

// TestNextMatches: what Next returns is later, on a full minute, and nothing due lies between.
func TestNextMatches(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		field := func(name string, low, high int) string {
			return rapid.OneOf(rapid.Just("*"), rapid.Map(rapid.IntRange(low, high), strconv.Itoa)).Draw(t, name)
		}
		spec := strings.Join([]string{field("minute", 0, 59), field("hour", 0, 23), "*", "*", field("weekday", 0, 6)}, " ")
		s, err := cron.Parse(spec)
		if err != nil {
			t.Fatalf("%q: %v", spec, err)
		}
		from := time.Unix(rapid.Int64Range(1.6e9, 1.8e9).Draw(t, "from"), 0).UTC()
		next := s.Next(from)
		if !next.After(from) || next.Second() != 0 {
			t.Fatalf("%q from %v: %v", spec, from, next)
		}
		if again := s.Next(next.Add(-time.Second)); !again.Equal(next) {
			t.Fatalf("%q: from just before %v comes %v", spec, next, again)
		}
	})
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"*/5 * * * *", "@every 1s", "1-2/3,5 ? jan * sun", "", "* * * * * *", "9999999999999999999 * * * *"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, spec string) {
		s, err := cron.Parse(spec)
		if err == nil {
			s.Next(time.Unix(0, 0).UTC())
		}
	})
}
