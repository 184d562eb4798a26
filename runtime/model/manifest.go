// Package model reads and writes model folders: one variant of one model, with the manifest that
// describes it and the checksums of its files.
//
// It stands beside the walk: ops/cli opens a folder before a worker starts, runtime/onnx loads the
// graph in it, runtime/tokenizer its vocabulary. It never downloads (runtime/hub does) and never
// converts (runtime/convert does). A Manifest is plain data, safe to share once loaded.
package model

import (
	"cmp"
	"time"

	"github.com/pelton-run/pelton/runtime/engine"
)

// Names of the files in a model folder.
const (
	ManifestFile     = "manifest.json"
	GraphFile        = "model.onnx"
	WeightsFile      = "weights.bin" // external data of the graph
	TokenizerFile    = "tokenizer.json"
	ChatTemplateFile = "chat_template.jinja"
	// TokenizerConfigFile tells the tokens at the edges of a text, perhaps the chat template.
	TokenizerConfigFile = "tokenizer_config.json"
)

// Format is the version of the folder layout that this code writes. Folders of format 3 are read as well, whose q4
// has a node for each norm, those of format 2, unless their cache is in pages, and those of format 1, unless they
// hold a decoder's graph of Pelton's own: these had other inputs.
const Format = 4

// Manifest describes one variant of a model. Sizes are in elements unless they say bytes.
type Manifest struct {
	Format       int    `json:"format"`
	Name         string `json:"name"`         // for example "smollm2-135m-instruct"
	Variant      string `json:"variant"`      // "q8", "q4", "fp32"
	Architecture string `json:"architecture"` // "llama"
	Parameters   int64  `json:"parameters"`   // count of weights

	// Kind is what the model does; "" writes text.
	Kind  string `json:"kind,omitempty"`
	Shape Shape  `json:"shape"` // of everything but KindTensor

	// Inputs and Outputs are the graph's, for KindEmbed and KindTensor. MaxBatch is the most rows of the
	// first dimension that calls of several jobs may be joined to; up to 1 is never. (Texts to embed are
	// always joined.)
	Inputs   []Port `json:"inputs,omitempty"`
	Outputs  []Port `json:"outputs,omitempty"`
	MaxBatch int    `json:"max_batch,omitempty"`

	Graph *Graph `json:"graph,omitempty"` // nil: the graph is Pelton's own, as Shape says

	EOS []int32 `json:"eos"` // token ids that end generation, never part of the text

	Files   []File    `json:"files"` // every file but the manifest itself
	Source  Source    `json:"source"`
	Created time.Time `json:"created"`
}

// Kinds of models besides those that write text.
const (
	// KindEmbed makes a vector of each text. The graph reads EmbedIDs [T], the token ids of all texts one
	// after the other, and EmbedLengths [B], how many each has, and yields EmbedOutput [B, dimensions].
	KindEmbed = "embed"
	// KindTensor is any graph.
	KindTensor = "tensor"

	EmbedIDs     = "ids"
	EmbedLengths = "lengths"
	EmbedOutput  = "embedding"
)

// Port is an input or an output of a graph; in the shape, -1 is a free dimension. Types are called as in
// the Open Inference Protocol: FP32, INT64, …
type Port = engine.Port

// Dimensions is the length of the vectors of a model of KindEmbed.
func (m Manifest) Dimensions() int { return m.Shape.Hidden }

// Shape is what the runtime must know of the graph of a model that writes text. The values of Pelton's own
// graphs are
//
//	inputs   ids [T] int64, tokens of any sequences, those of one side by side and in order,
//	         places [T,2] int32, the slot and position of each in the cache,
//	         sel [R] int64, of which of them the logits are wanted,
//	         keys.N and values.N [slots,KVHeads,bytes] uint8 for each layer N: the cache, written in place
//	output   logits [R,Vocab] float32
//
// With PageTokens, graphs for GPUs have in place of places
//
//	inputs   decoding [1] int64 in host memory, how many sequences bring one token: their tokens come first,
//	         decoding_held [D] int32, how many tokens of each the cache has already,
//	         decoding_pages [D,P] int32, the numbers of the pages in which each lies,
//	         starts [B+1] int32, where each of B more sequences begins among the other tokens, and their number,
//	         held [B] and pages [B,P] of those,
//	         bounds [3] int32 in host memory, the most tokens that one of those brings here, and the most that one
//	         then has, at most and at least,
//	         keys.N and values.N [pages,PageTokens,KVHeads,HeadDim] float16
//
// and beside the logits
//
//	output   best [R] int64, the likeliest token of each row
type Shape struct {
	Layers        int `json:"layers"`
	Hidden        int `json:"hidden"`
	Heads         int `json:"heads"`
	KVHeads       int `json:"kv_heads"`
	HeadDim       int `json:"head_dim"`
	FFN           int `json:"ffn"`
	Vocab         int `json:"vocab"`
	ContextLength int `json:"context_length"`        // also the length of the rotary caches
	KVWidth       int `json:"kv_width,omitempty"`    // bytes of a cached number; 0 is 4, float32
	PageTokens    int `json:"page_tokens,omitempty"` // of a page of the cache; 0 is a cache in slots
}

// Names of the inputs of graphs with pages, see Shape.
const (
	PagedDecoding      = "decoding"
	PagedDecodingHeld  = "decoding_held"
	PagedDecodingPages = "decoding_pages"

	PagedStarts = "starts"
	PagedHeld   = "held"
	PagedPages  = "pages"
	PagedBounds = "bounds"
)

// KVBytesPerToken is the size of one token's keys and values over all layers.
func (s Shape) KVBytesPerToken() int64 {
	return int64(s.Layers) * 2 * int64(s.KVHeads) * int64(s.HeadDim) * int64(cmp.Or(s.KVWidth, 4))
}

// GraphName is the file of the folder that holds the graph.
func (m Manifest) GraphName() string {
	if m.Graph != nil {
		return m.Graph.File
	}
	return GraphFile
}

// File is one file of the folder.
type File struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"` // bytes
	SHA256 string `json:"sha256"`
}

// Source says where the weights came from.
type Source struct {
	URL     string `json:"url"` // or the path of a local file
	SHA256  string `json:"sha256"`
	License string `json:"license,omitempty"`
}
