// Package paged is the engine for GPUs: weights in half precision, and the KV cache in pages of the device's
// own memory, which ONNX Runtime's PagedAttention (of prompts) and our own DecodeAttention (of decoding sequences)
// read and append to in place.
//
// Previous step of the walk: worker/batch, through runtime/engine (runtime/onnx opens the model); next step:
// runtime/sampler.
//
// A step is one call over the tokens of all its rows. Only token ids and page numbers go to the device, only the
// logits that are wanted come back, into memory of the host that it can write to by itself. A sequence gets the
// pages for all of its reservation when it is opened, from a pool that is allocated once, when all else that
// the model takes on the device is known: no step can run out of memory.
//
// Sequences of a scope that begin alike have pages in common (Share): full pages are only read.
//
// The library's kernels for GPUs choose their order of additions by the size of the whole call. So the last bits of a
// sequence's logits depend on its neighbors and on the cut of its prompt: Info.Varies says so.
//
// An [Engine] is driven by one goroutine; Info, Memory, SetKVBudget and Footprint may be called from others.
package paged
