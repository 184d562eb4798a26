// Package onnx is the engine that runs a converted model on ONNX Runtime.
//
// Previous step of the walk: worker/batch, through runtime/engine; next step: runtime/sampler. With
// those below it, it is the only package with cgo and the only one that knows the binding; without cgo, OpenModel says so.
//
// The engine owns the memory of the KV cache: one anonymous mapping with a key and a value buffer for each
// layer, in slots of a whole context. The attention kernel (package kernels) reads and appends in place, so
// nothing is copied between steps. A step is one call over the tokens of all its rows, prompts and decoding
// sequences alike, each with its slot and position: the weights are read once.
//
// What the bits of a sequence's logits depend on is measured, not assumed: weights, library version
// and kernel class of the processor (all in Info.Fingerprint). They do not depend on threads, slots,
// neighbors or the cut of the prompt, nor, unless Info.MinPrefill says so, on whether a token was generated
// or part of a prompt.
//
// Models for GPUs (model.Shape.PageTokens) are run by package paged, which OpenModel opens. Other graphs run on
// other devices (Config.Device) through the library's execution providers too: the KV cache stays in the process's
// memory, and what a device has no kernel for, our operators first of all, runs on the CPU. OpenVINO's provider
// passes the conformance suite on a CPU (make openvino).
//
// The package never samples, never reads text, never downloads. An [Engine] is driven by one
// goroutine; Info, Memory, SetKVBudget and Footprint may be called from others.
package onnx
