package cron

import (
	"errors"
	"fmt"
	"math/bits"
	"strconv"
	"strings"
	"time"
)

// Schedule says when something is due.
type Schedule struct {
	minute, hour, day, month, weekday uint64 // bit n: value n
	anyDay, anyWeekday                bool   // the field restricts nothing
	every                             time.Duration
}

// horizon is how far Next looks ahead: February 29th that is also a certain weekday comes within 28 years, but a date that
// does not exist never does.
const horizonYears = 5

type bounds struct {
	low, high int
	names     map[string]int
}

var ( // read-only
	minutes  = bounds{0, 59, nil}
	hours    = bounds{0, 23, nil}
	days     = bounds{1, 31, nil}
	months   = bounds{1, 12, map[string]int{"jan": 1, "feb": 2, "mar": 3, "apr": 4, "may": 5, "jun": 6, "jul": 7, "aug": 8, "sep": 9, "oct": 10, "nov": 11, "dec": 12}}
	weekdays = bounds{0, 6, map[string]int{"sun": 0, "mon": 1, "tue": 2, "wed": 3, "thu": 4, "fri": 5, "sat": 6}}
)

// Parse reads a schedule. It accepts no time zone prefix. The messages are those that users of cron in Go know.
func Parse(text string) (Schedule, error) {
	if text == "" {
		return Schedule{}, errors.New("empty spec string")
	}
	if strings.HasPrefix(text, "@") {
		return parseDescriptor(text)
	}
	fields := strings.Fields(text)
	if len(fields) != 5 {
		return Schedule{}, fmt.Errorf("expected exactly 5 fields, found %d: %v", len(fields), fields)
	}
	s := Schedule{}
	for i, f := range []struct {
		to *uint64
		b  bounds
	}{{&s.minute, minutes}, {&s.hour, hours}, {&s.day, days}, {&s.month, months}, {&s.weekday, weekdays}} {
		for part := range strings.SplitSeq(fields[i], ",") {
			set, err := parseRange(part, f.b)
			if err != nil {
				return Schedule{}, err
			}
			*f.to |= set
		}
	}
	s.anyDay, s.anyWeekday = isAny(fields[2]), isAny(fields[4])
	return s, nil
}

// isAny says that a field restricts nothing: it is a star, or a list that has one. A star with steps restricts.
func isAny(field string) bool {
	for part := range strings.SplitSeq(field, ",") {
		rest, star := strings.CutPrefix(part, "*")
		if !star {
			rest, star = strings.CutPrefix(part, "?")
		}
		if n, err := strconv.Atoi(strings.TrimPrefix(rest, "/")); star && (rest == "" || err == nil && n == 1) {
			return true
		}
	}
	return false
}

func parseDescriptor(text string) (Schedule, error) {
	switch text {
	case "@yearly", "@annually":
		return Parse("0 0 1 1 *")
	case "@monthly":
		return Parse("0 0 1 * *")
	case "@weekly":
		return Parse("0 0 * * 0")
	case "@daily", "@midnight":
		return Parse("0 0 * * *")
	case "@hourly":
		return Parse("0 * * * *")
	}
	if d, ok := strings.CutPrefix(text, "@every "); ok {
		every, err := time.ParseDuration(d)
		if err != nil {
			return Schedule{}, fmt.Errorf("failed to parse duration %s: %w", text, err)
		}
		return Schedule{every: max(every.Truncate(time.Second), time.Second)}, nil
	}
	return Schedule{}, fmt.Errorf("unrecognized descriptor: %s", text)
}

// parseRange reads "*", "5", "1-5", "*/10", "1-30/2" or "5/10" (from 5 to the end).
func parseRange(text string, b bounds) (uint64, error) {
	rangeText, stepText, hasStep := strings.Cut(text, "/")
	if strings.Contains(stepText, "/") {
		return 0, fmt.Errorf("too many slashes: %s", text)
	}
	low, high := b.low, b.high
	single := false
	if rangeText != "*" && rangeText != "?" {
		first, last, isRange := strings.Cut(rangeText, "-")
		if strings.Contains(last, "-") {
			return 0, fmt.Errorf("too many hyphens: %s", text)
		}
		var err error
		if low, err = parseValue(first, b); err != nil {
			return 0, err
		}
		high, single = low, !isRange
		if isRange {
			if high, err = parseValue(last, b); err != nil {
				return 0, err
			}
		}
	}
	step := 1
	if hasStep {
		n, err := parseNumber(stepText)
		if err != nil {
			return 0, err
		}
		step = n
		if single {
			high = b.high
		}
	}
	switch {
	case low < b.low:
		return 0, fmt.Errorf("beginning of range (%d) below minimum (%d): %s", low, b.low, text)
	case high > b.high:
		return 0, fmt.Errorf("end of range (%d) above maximum (%d): %s", high, b.high, text)
	case low > high:
		return 0, fmt.Errorf("beginning of range (%d) beyond end of range (%d): %s", low, high, text)
	case step == 0:
		return 0, fmt.Errorf("step of range should be a positive number: %s", text)
	}
	var set uint64
	for v := low; v <= high; v += min(step, b.high+1) {
		set |= 1 << v
	}
	return set, nil
}

func parseValue(text string, b bounds) (int, error) {
	if n, ok := b.names[strings.ToLower(text)]; ok {
		return n, nil
	}
	return parseNumber(text)
}

func parseNumber(text string) (int, error) {
	n, err := strconv.Atoi(text)
	if err != nil {
		return 0, fmt.Errorf("failed to parse int from %s: %w", text, err)
	}
	if n < 0 {
		return 0, fmt.Errorf("negative number (%d) not allowed: %s", n, text)
	}
	return n, nil
}

// Latest returns the last time that is due at or before now, counted from a time at which it was due, without looking at those between; and
// how many there are. It says false of schedules whose times depend on the calendar.
func (s Schedule) Latest(from, now time.Time) (last time.Time, n int64, ok bool) {
	if s.every == 0 {
		return time.Time{}, 0, false
	}
	if first := s.Next(from); !first.After(now) {
		n = int64(now.Sub(first)/s.every) + 1
		last = first.Add(time.Duration(n-1) * s.every)
	}
	return last, n, true
}

// Next returns the first time after t that is due, in t's location, or the zero time if none comes within five years. A time that a
// change of the clock leaves out is skipped; one that comes twice is due twice.
func (s Schedule) Next(t time.Time) time.Time {
	if s.every > 0 {
		return t.Add(s.every - time.Duration(t.Nanosecond())*time.Nanosecond)
	}
	start := t
	t = t.Add(time.Minute).Truncate(time.Minute)
	for limit := t.AddDate(horizonYears, 0, 0); t.Before(limit); {
		year, month, day := t.Date()
		switch {
		case s.month&(1<<month) == 0:
			t = time.Date(year, month+1, 1, 0, 0, 0, 0, t.Location())
		case !s.matchesDay(t):
			t = time.Date(year, month, day+1, 0, 0, 0, 0, t.Location())
		case s.hour&(1<<t.Hour()) == 0:
			next := t.Add(time.Hour - time.Duration(t.Minute())*time.Minute)
			t = next
		case s.minute&(1<<t.Minute()) == 0:
			// The next wanted minute of this hour, or the next hour.
			if rest := s.minute >> (t.Minute() + 1); rest != 0 {
				t = t.Add(time.Duration(bits.TrailingZeros64(rest)+1) * time.Minute)
			} else {
				t = t.Add(time.Duration(60-t.Minute()) * time.Minute)
			}
		case !t.After(start):
			t = t.Add(time.Minute)
		default:
			return t
		}
	}
	return time.Time{}
}

// matchesDay applies crontab's rule: with both days restricted either will do, else both must match.
func (s Schedule) matchesDay(t time.Time) bool {
	day, weekday := s.day&(1<<t.Day()) != 0, s.weekday&(1<<int(t.Weekday())) != 0
	if s.anyDay || s.anyWeekday {
		return day && weekday
	}
	return day || weekday
}
