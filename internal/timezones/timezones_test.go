package timezones

import (
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestLoad(t *testing.T) {
	zones, err := table()
	if err != nil {
		t.Fatal(err)
	}
	known := 0
	for _, f := range zones.File {
		if strings.HasSuffix(f.Name, "/") {
			continue
		}
		data, err := load(f.Name)
		if err != nil {
			t.Errorf("%s: %v", f.Name, err)
			continue
		}
		if _, err := time.LoadLocationFromTZData(f.Name, []byte(data)); err != nil {
			t.Errorf("%s: %v", f.Name, err)
		}
		known++
	}
	if known < 500 {
		t.Errorf("only %d zones", known)
	}
	data, err := load("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	berlin, err := time.LoadLocationFromTZData("Europe/Berlin", []byte(data))
	if err != nil {
		t.Fatal(err)
	}
	if noon := time.Date(2026, time.July, 1, 12, 0, 0, 0, berlin).UTC(); noon.Hour() != 10 {
		t.Errorf("noon in Berlin is at %v", noon)
	}
}

func TestUnknown(t *testing.T) {
	for _, name := range []string{"", "Nowhere", "Europe", "Europe/Nowhere", "../Europe/Berlin"} {
		if zone, err := load(name); err != syscall.ENOENT {
			t.Errorf("%q: %d bytes, %v", name, len(zone), err)
		}
	}
}

// TestRegister sees that the standard library asks for what the machine has no file of, and that it says of a zone that nobody knows what it always says.
func TestRegister(t *testing.T) {
	defer Register()
	registerLoadFromEmbeddedTZData(func(string) (string, error) { return load("Europe/Berlin") })
	if _, err := time.LoadLocation("Nowhere/AtAll"); err != nil {
		t.Error(err)
	}
	Register()
	if _, err := time.LoadLocation("Pacific/Chatham"); err != nil {
		t.Error(err)
	}
	if _, err := time.LoadLocation("Nowhere/AtAll"); err == nil || err.Error() != "unknown time zone Nowhere/AtAll" {
		t.Error(err)
	}
}
