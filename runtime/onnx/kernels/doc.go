// Package kernels holds operators of our own for ONNX Runtime, domain "pelton": what the library has no operator
// for, or only a slow one. Those for CPUs are in C, those for NVIDIA GPUs in CUDA (gpu.cu)
// behind C files (gpu.c, decode.c, gate.c).
//
// It is a part of runtime/onnx, which adds them to every session; runtime/convert writes graphs that use
// them. Each operator for CPUs has kernels for several levels of instructions, all of which give the same bits; the
// highest that the processor has is taken. Kernels run on the threads of the session that they belong to.
//
// A new operator: a C file with a variable of type operator (kernel.h), and its name in the list in kernel.c.
package kernels
