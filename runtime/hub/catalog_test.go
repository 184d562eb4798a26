package hub_test

import (
	"testing"

	"github.com/pelton-run/pelton/runtime/hub"
	"github.com/pelton-run/pelton/runtime/model"
)

func TestCatalog(t *testing.T) {
	t.Parallel()
	all := hub.Catalog()
	if len(all) == 0 || all[0].Name != hub.Default {
		t.Fatalf("the catalog %+v does not begin with %s", all, hub.Default)
	}
	seen := map[string]string{}
	for _, e := range all {
		if model.CheckName(e.Name) != nil || model.CheckName(e.Variant) != nil || e.Size <= 0 || len(e.SHA256) != 64 || e.License == "" {
			t.Errorf("entry %+v is not complete", e)
		}
		for _, name := range append([]string{e.Name}, e.Aliases...) {
			if seen[name] != "" {
				t.Errorf("%s and %s are both called %s", e.Name, seen[name], name)
			}
			seen[name] = e.Name
			if got, ok := hub.Lookup(name); !ok || got.Name != e.Name {
				t.Errorf("Lookup(%s) = %s, %v; want %s", name, got.Name, ok, e.Name)
			}
		}
	}
	if e, ok := hub.Lookup("nobody"); ok {
		t.Errorf("Lookup(nobody) = %+v", e)
	}
}
