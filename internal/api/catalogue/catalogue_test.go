package catalogue_test

import (
	"testing"

	"github.com/celox/celox/internal/api/catalogue"
)

func TestNew(t *testing.T) {
	if _, err := catalogue.New(); err != nil {
		t.Fatal(err)
	}
}
