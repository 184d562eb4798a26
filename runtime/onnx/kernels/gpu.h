// What operators for NVIDIA GPUs have in common: the driver, and the kernels of gpu.cu.
#ifndef PELTON_GPU_H
#define PELTON_GPU_H

#include "kernel.h"

enum { SHARES = 4 }; // query heads that share what is read of the cache: 1, 2, 4 or 8

// gpu is a device with its kernels.
typedef struct {
    void *module, *merge, *gate, *best, *decode[2][SHARES]; // for heads of up to 64 numbers, and longer ones
    int multiprocessors;
} gpu;

// gpu_current is the device that the calling thread uses, with its kernels loaded.
OrtStatus *gpu_current(gpu **);

// gpu_launch starts a kernel of one parameter in a grid of x by y by z blocks.
OrtStatus *gpu_launch(const char *name, void *kernel, unsigned x, unsigned y, unsigned z, unsigned threads, void *stream, void *parameter);

// gpu_copy copies from the device to itself.
OrtStatus *gpu_copy(void *to, const void *from, size_t bytes, void *stream);

#endif
