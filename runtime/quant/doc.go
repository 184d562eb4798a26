// Package quant holds the number formats of model weights: how each is unpacked to float32, and how
// weights are packed into the layouts of ONNX Runtime's quantized operators.
//
// Previous step: runtime/gguf, which reads the bytes. Next step: runtime/convert, which stores the packed
// weights beside a graph. The package does no I/O and keeps no state; all functions are pure and safe for
// concurrent use on different slices.
//
// In the layout of the operators MatMulNBits and GatherBlockQuantized (domain com.microsoft) a row of K
// values is cut into blocks of [Block], each block has one float32 scale, and the values are unsigned with
// zero point 128, which is the operators' default when they are given no zero points. [Grouping] is the
// layout of our own operators.
package quant

// Block is the count of neighboring values that share a scale in the packed layouts.
const Block = 32
