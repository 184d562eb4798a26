// Package repo understands what a repository of models on a Hugging Face hub holds: how it is referred
// to, and which of its files are a model that Pelton can run.
//
// Previous step: ops/cli was given "hf:org/name". Next step: runtime/hub fetches the chosen files. The
// package is pure: it knows no network and no disk.
package repo

import (
	"cmp"
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"unicode"
)

// Prefix begins references to repositories.
const Prefix = "hf:"

// ErrChoice is returned, wrapped, when a repository holds nothing that can be run, or several things of
// which none is preferred; the text lists them.
var ErrChoice = errors.New("no file can be chosen")

// Ref is a reference "hf:org/name[@revision][:file]".
type Ref struct {
	ID       string // org/name
	Revision string // branch, tag or commit; "main" unless given
	File     string // a file or folder of the repository; "" lets Choose decide
}

var (
	validID       = regexp.MustCompile(`^([A-Za-z0-9_][A-Za-z0-9_.-]{0,95}/)?[A-Za-z0-9_][A-Za-z0-9_.-]{0,95}$`)
	validRevision = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_./-]{0,199}$`)
)

// ParseRef reads a reference.
func ParseRef(text string) (Ref, error) {
	rest, ok := strings.CutPrefix(text, Prefix)
	id, file, _ := strings.Cut(rest, ":")
	id, revision, given := strings.Cut(id, "@")
	r := Ref{ID: id, Revision: "main", File: strings.TrimSuffix(file, "/")}
	if given {
		r.Revision = revision
	}
	switch {
	case !ok || !validID.MatchString(id) || strings.Contains(id, ".."):
		return r, fmt.Errorf("%.200q is no model of a hub: write hf:org/name, hf:org/name@revision or hf:org/name:file", text)
	case !validRevision.MatchString(r.Revision) || strings.Contains(r.Revision, ".."):
		return r, fmt.Errorf("%.200q: the revision after @ is no branch, tag or commit", text)
	case r.File != "" && !Local(r.File):
		return r, fmt.Errorf("%.200q: the file after the colon is no path in the repository", text)
	}
	return r, nil
}

// String is the reference with everything that is known.
func (r Ref) String() string {
	s := Prefix + r.ID + "@" + r.Revision
	if r.File != "" {
		s += ":" + r.File
	}
	return s
}

// Local reports whether p is a path that stays inside a folder on every system, and can be printed.
func Local(p string) bool {
	return p != "" && len(p) < 1000 && path.Clean(p) == p && !path.IsAbs(p) && p != ".." && !strings.HasPrefix(p, "../") && !strings.ContainsAny(p, "\\:") && !strings.ContainsFunc(p, unicode.IsControl)
}

// File is one file of a repository.
type File struct {
	Path   string
	Size   int64  // bytes
	SHA256 string // of large files
	Git    string // SHA-1 of the others, as git counts it: over "blob SIZE\x00" and the content
}

// Choice is what to fetch.
type Choice struct {
	GGUF  string   // the GGUF file; "" for an export
	Graph string   // the .onnx file; its weights, if they are files of their own, come beside it
	Base  string   // folder in which an export's texts lie; "" is the top
	Words []string // paths of the texts
	Other []string // what could have been chosen instead
}

// texts are the small files that belong to an export.
var texts = []string{"config.json", "genai_config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}

// quants are the number formats that GGUF file names end with, the preferred first: 8 bit is what the
// default variant keeps without loss; then what loses least, small before large; what loses most is last.
var quants = []string{
	"q8_0", "q6_k", "q5_k_m", "q5_k_s", "q5_1", "q5_0", "q4_k_m", "q4_k_s", "q4_1", "q4_0", "bf16", "f16", "fp16", "f32", "fp32",
	"iq4_nl", "iq4_xs", "q3_k_l", "q3_k_m", "q3_k_s", "q2_k",
}

// graphs are the names of exported graphs, the preferred first: what is not rounded, then what loses
// least.
var graphs = []string{
	"model", "decoder_model_merged", "model_fp16", "decoder_model_merged_fp16", "model_q8", "model_int8", "model_quantized",
	"decoder_model_merged_quantized", "model_q4", "model_q4f16",
}

// Choose decides which files of a repository to take. want is a file or a folder of it, or "".
func Choose(files []File, want string) (Choice, error) {
	var names []string
	for _, f := range files {
		names = append(names, f.Path)
	}
	if want != "" && !slices.Contains(names, want) {
		inside := slices.DeleteFunc(slices.Clone(names), func(n string) bool { return !strings.HasPrefix(n, want+"/") })
		if len(inside) == 0 {
			return Choice{}, fmt.Errorf("%w: there is no %.200q; there are %s", ErrChoice, want, listed(candidates(names)))
		}
		return choose(names, candidates(inside))
	}
	if want != "" {
		return choose(names, []string{want})
	}
	all := candidates(names)
	if gguf := slices.DeleteFunc(slices.Clone(all), func(n string) bool { return !strings.HasSuffix(n, ".gguf") }); len(gguf) > 0 {
		return choose(names, gguf)
	}
	return choose(names, all)
}

// candidates are the files that are models.
func candidates(names []string) []string {
	var out []string
	for _, n := range names {
		base := strings.ToLower(path.Base(n))
		switch {
		case strings.HasSuffix(base, ".gguf") && !strings.Contains(base, "mmproj") && !part.MatchString(base):
			out = append(out, n)
		case strings.HasSuffix(base, ".onnx") && !strings.Contains(base, "encoder") && base != "decoder_with_past_model.onnx" && base != "decoder_model.onnx":
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return out
}

// part matches pieces of files that were split for their size.
var part = regexp.MustCompile(`-\d{5}-of-\d{5}\.gguf$`)

func choose(names, all []string) (Choice, error) {
	switch len(all) {
	case 0:
		return Choice{}, fmt.Errorf("%w: the repository has no GGUF file in one piece and no exported ONNX decoder%s", ErrChoice, instead(names))
	case 1:
		return complete(names, all[0], nil)
	}
	best := slices.Clone(all)
	slices.SortStableFunc(best, func(a, b string) int { return cmp.Compare(rank(a), rank(b)) })
	if r := rank(best[0]); r == unranked || r == rank(best[1]) {
		return Choice{}, fmt.Errorf("%w: there are several, name one of them after a colon: %s", ErrChoice, listed(all))
	}
	return complete(names, best[0], best[1:])
}

// instead says what a repository without a model holds.
func instead(names []string) string {
	if slices.ContainsFunc(names, func(n string) bool { return strings.HasSuffix(n, ".safetensors") || strings.HasSuffix(n, ".bin") }) {
		return ": it has PyTorch weights; look for a repository of the same model with GGUF in its name, or export it with optimum-cli"
	}
	return ""
}

const unranked = 1000

// rank is the place of a file in the order of preference.
func rank(name string) int {
	base := strings.ToLower(path.Base(name))
	if stem, ok := strings.CutSuffix(base, ".gguf"); ok {
		for i, q := range quants {
			if strings.HasSuffix(stem, "."+q) || strings.HasSuffix(stem, "-"+q) || strings.HasSuffix(stem, "_"+q) {
				return i
			}
		}
		return unranked
	}
	if i := slices.Index(graphs, strings.TrimSuffix(base, ".onnx")); i >= 0 {
		return i
	}
	return unranked
}

// complete adds what a model needs beside it.
func complete(names []string, model string, others []string) (Choice, error) {
	if strings.HasSuffix(strings.ToLower(model), ".gguf") {
		if part.MatchString(strings.ToLower(model)) {
			return Choice{}, fmt.Errorf("%w: %s is a piece of a split file, which cannot be read", ErrChoice, model)
		}
		return Choice{GGUF: model, Other: others}, nil
	}
	if !strings.HasSuffix(model, ".onnx") {
		return Choice{}, fmt.Errorf("%w: %s is neither a .gguf nor an .onnx file", ErrChoice, model)
	}
	c := Choice{Graph: model, Other: others}
	// The texts lie beside the graph, or above the folder onnx.
	for _, c.Base = range []string{path.Dir(model), path.Dir(path.Dir(model)), "."} {
		if slices.Contains(names, path.Join(c.Base, "tokenizer.json")) {
			break
		}
	}
	if at := path.Join(c.Base, "modules.json"); slices.Contains(names, at) {
		return Choice{}, fmt.Errorf("%w: %s says that %s embeds text; of such models minilm alone can be pulled, and pelton model add serves any graph as it is, for tensors", ErrChoice, at, model)
	}
	for _, t := range texts {
		if at := path.Join(c.Base, t); slices.Contains(names, at) {
			c.Words = append(c.Words, at)
		}
	}
	if !slices.Contains(c.Words, path.Join(c.Base, "tokenizer.json")) {
		return Choice{}, fmt.Errorf("%w: the repository has no tokenizer.json for %s", ErrChoice, model)
	}
	return c, nil
}

// listed names things, at most twenty.
func listed(all []string) string {
	if len(all) == 0 {
		return "none that could be run"
	}
	if len(all) > 20 {
		return strings.Join(all[:20], ", ") + fmt.Sprintf(" and %d more", len(all)-20)
	}
	return strings.Join(all, ", ")
}
