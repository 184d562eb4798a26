//go:build cgo && (linux || darwin)

// Operators Gate and Best, for ONNX Runtime's CUDA provider. Their kernels are in gpu.cu.
//
//   Gate  in [T, 2n] half: n gates, and behind them n numbers; out [T, n] half: silu(gate) * number; n is even
//   Best  in [R, n] half; out [R] int64: the place of each row's largest number, the first of equals

#include "gpu.h"

#include <stdlib.h>

enum { THREADS = 128, MANY = 1024 }; // as in gpu.cu

static OrtStatus *create(const OrtKernelInfo *info, void **kernel) {
    *kernel = malloc(1); // has nothing to know
    return *kernel ? NULL : invalid("out of memory");
}

// begin looks at the operator's input, and finds the device and the stream.
static OrtStatus *begin(OrtKernelContext *context, tensor *in, int64_t most, gpu **g, void **stream) {
    try(input(context, 0, in));
    if (in->rank != 2 || in->dims[1] < 1 || in->dims[1] > most) return invalid("the input is not [rows, up to %lld]", (long long)most);
    try(gpu_current(g));
    return ort(KernelContext_GetGPUComputeStream)(context, stream);
}

static OrtStatus *compute_gate(void *kernel, OrtKernelContext *context) {
    tensor in, out = {.rank = 2};
    gpu *g;
    void *stream;
    try(begin(context, &in, 1 << 24, &g, &stream));
    if (in.dims[1] % 4) return invalid("gates and numbers are of odd count: %lld together", (long long)in.dims[1]);
    out.dims[0] = in.dims[0], out.dims[1] = in.dims[1] / 2;
    try(output(context, 0, &out));
    struct {
        const void *in;
        void *out;
        int width;
    } c = {in.data, out.data, out.dims[1] / 2};
    return in.dims[0] ? gpu_launch("gate", g->gate, in.dims[0], (c.width + THREADS - 1) / THREADS, 1, THREADS, stream, &c) : NULL;
}

static OrtStatus *compute_best(void *kernel, OrtKernelContext *context) {
    tensor in, out = {.rank = 1};
    gpu *g;
    void *stream;
    try(begin(context, &in, 1 << 30, &g, &stream));
    out.dims[0] = in.dims[0];
    try(output(context, 0, &out));
    struct {
        const void *in;
        void *out;
        int width;
    } c = {in.data, out.data, in.dims[1]};
    return in.dims[0] ? gpu_launch("best", g->best, in.dims[0], 1, 1, MANY, stream, &c) : NULL;
}

operator gate_operator = {.name = "Gate", .provider = "CUDAExecutionProvider", .inputs = "h", .outputs = "h", .create = create, .compute = compute_gate};

operator best_operator = {.name = "Best", .provider = "CUDAExecutionProvider", .inputs = "h", .outputs = "l", .create = create, .compute = compute_best};
