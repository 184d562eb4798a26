package gateway_test

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
)

// document is what the tests read of openapi.json.
type document struct {
	Paths      map[string]map[string]operation
	Components struct {
		Responses map[string]response
	}
}

type operation struct {
	Responses map[string]response
}

type response struct {
	Ref     string `json:"$ref"`
	Content map[string]json.RawMessage
}

var readDocument = sync.OnceValues(func() (doc document, err error) {
	data, err := os.ReadFile("openapi.json")
	if err != nil {
		return doc, err
	}
	return doc, json.Unmarshal(data, &doc)
})

func description(t testing.TB) document {
	t.Helper()
	doc, err := readDocument()
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

// find is the operation of a method on a path.
func (d document) find(method, path string) (operation, bool) {
	for pattern, item := range d.Paths {
		same := func(want, got string) bool { return want == got || got != "" && strings.HasPrefix(want, "{") }
		if slices.EqualFunc(strings.Split(pattern, "/"), strings.Split(path, "/"), same) {
			op, known := item[method]
			return op, known
		}
	}
	return operation{}, false
}
