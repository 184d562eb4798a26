package contractstest_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/contractstest"
)

var update = flag.Bool("update", false, "rewrite the golden vectors in contracts/testdata")

const vectorDir = "../testdata"

// TestVectors: the wire format is what it was. A change here breaks producers in other languages.
func TestVectors(t *testing.T) {
	t.Parallel()
	known := map[string]bool{}
	for _, v := range contractstest.Vectors() {
		known[v.Name] = true
		t.Run(v.Name, func(t *testing.T) {
			packed, err := contracts.Encode(v.Value)
			if err != nil {
				t.Fatal(err)
			}
			text, err := json.MarshalIndent(v.Value, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			golden(t, v.Name+".msgpack", packed)
			golden(t, v.Name+".json", append(text, '\n'))

			unpacked, parsed := v.New(), v.New()
			if err := contracts.Decode(packed, unpacked); err != nil {
				t.Errorf("decode: %v", err)
			}
			if err := json.Unmarshal(text, parsed); err != nil {
				t.Errorf("parse: %v", err)
			}
			for from, got := range map[string]any{"msgpack": unpacked, "json": parsed} {
				if diff := cmp.Diff(v.Value, got); diff != "" {
					t.Errorf("from %s (-want +got)\n%s", from, diff)
				}
			}
		})
	}
	files, err := filepath.Glob(filepath.Join(vectorDir, "*.msgpack"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if name := strings.TrimSuffix(filepath.Base(f), ".msgpack"); !known[name] {
			t.Errorf("%s belongs to no vector: remove it", f)
		}
	}
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join(vectorDir, name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v: run go test ./contracts/contractstest -update", err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is\n%q, want\n%q", path, got, want)
	}
}

// TestVectorsComplete: each key of each type that travels appears in some vector.
func TestVectorsComplete(t *testing.T) {
	t.Parallel()
	seen, all := map[string]bool{}, map[string]bool{}
	for _, v := range contractstest.Vectors() {
		fields(reflect.ValueOf(v.Value), seen, all)
	}
	for _, v := range []any{&contracts.Job{}, &contracts.Admitted{}, &contracts.Answer{}, &contracts.Chunk{}, &contracts.Status{}, &contracts.Heartbeat{}} {
		fields(reflect.ValueOf(v), map[string]bool{}, all)
	}
	for f := range all {
		if !seen[f] {
			t.Errorf("no vector sets %s", f)
		}
	}
}

// fields notes which fields of the structs in v are set, and which there are.
func fields(v reflect.Value, seen, all map[string]bool) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			fields(v.Elem(), seen, all)
		}
	case reflect.Slice:
		for i := range v.Len() {
			fields(v.Index(i), seen, all)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			name := v.Type().Name() + "." + v.Type().Field(i).Name
			all[name] = true
			if !v.Field(i).IsZero() {
				seen[name] = true
			}
			fields(v.Field(i), seen, all)
		}
	}
}
