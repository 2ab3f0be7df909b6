package main

import (
	"os"
	"testing"

	"github.com/celox/celox/internal/api/catalogue"
)

func TestPageIsCurrent(t *testing.T) {
	c, err := catalogue.New()
	if err != nil {
		t.Fatal(err)
	}
	have, err := os.ReadFile("../../../../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	if string(have) != string(page(c)) {
		t.Error("docs/api.md is not what the catalogue says: run make generate")
	}
}
