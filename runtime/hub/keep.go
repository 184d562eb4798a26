//go:build library_in_go_mod

package hub

// This import is never built: it keeps the module whose folder holds the ONNX Runtime library, and its
// checksum, in go.mod. FindLibrary looks for the library in the module cache.
import _ "github.com/k2-fsa/sherpa-onnx-go-linux"
