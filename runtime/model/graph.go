package model

import (
	"fmt"
	"slices"
	"strings"
)

// Number types of an exported graph's values.
const (
	Float32 = "float32"
	Float16 = "float16"
	Int64   = "int64"
	Int32   = "int32"
	Bool    = "bool"
)

// Value is one input or output of an exported graph; without a name, the graph has none of its kind.
// In names of the cache, %d stands for the layer.
type Value struct {
	Name string `json:"name,omitempty"`
	Type string `json:"type,omitempty"`
}

// Graph says how a decoder that another tool exported is called and fed. Its caches are
// [B,KVHeads,T,HeadDim], past T tokens in and T plus the new ones out.
type Graph struct {
	File      string `json:"file"`               // the .onnx file
	IDs       Value  `json:"ids"`                // [B,S]
	Mask      Value  `json:"mask,omitzero"`      // [B,T+S], ones
	Positions Value  `json:"positions,omitzero"` // [B,S]
	UseCache  Value  `json:"use_cache,omitzero"` // [1]: whether the past is to be read (merged decoders)
	Keep      Value  `json:"keep,omitzero"`      // a scalar: of how many last tokens the logits are wanted
	PastKey   Value  `json:"past_key"`           //
	PastValue Value  `json:"past_value"`         //
	Key       Value  `json:"present_key"`        //
	Value     Value  `json:"present_value"`      //
	Logits    Value  `json:"logits"`             // [B,S,Vocab]
	Last      bool   `json:"last,omitempty"`     // the logits are [B,1,Vocab], of the last token
	InPlace   bool   `json:"in_place,omitempty"` // the graph appends to a past that lies in longer memory
}

// validate checks that the values that every decoder has are there, in types that can be fed.
func (g Graph) validate() []error {
	var all []error
	check := func(what string, v Value, optional bool, types ...string) {
		if optional && v.Name == "" {
			return
		}
		if v.Name == "" || !slices.Contains(types, v.Type) {
			all = append(all, fmt.Errorf("graph: %s is %.110q of type %.20q, must have a name and a type of %v", what, v.Name, v.Type, types))
		}
	}
	check("ids", g.IDs, false, Int64, Int32)
	check("mask", g.Mask, true, Int64, Int32)
	check("positions", g.Positions, true, Int64, Int32)
	check("use_cache", g.UseCache, true, Bool)
	check("keep", g.Keep, true, Int64)
	check("logits", g.Logits, false, Float32, Float16)
	for what, v := range map[string]Value{"past_key": g.PastKey, "past_value": g.PastValue, "present_key": g.Key, "present_value": g.Value} {
		check(what, v, false, Float32, Float16)
		if strings.Count(v.Name, "%") != 1 || !strings.Contains(v.Name, "%d") || v.Type != g.PastKey.Type {
			all = append(all, fmt.Errorf("graph: %s is %.110q of type %.20q, must have one %%d for the layer and the type of the others", what, v.Name, v.Type))
		}
	}
	return all
}
