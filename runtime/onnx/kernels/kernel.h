// What the operators of this folder have in common.
#ifndef PELTON_KERNEL_H
#define PELTON_KERNEL_H

#include "ort.h"

#ifdef __clang__
#pragma STDC FP_CONTRACT OFF // gcc has it off with -std=c11
#endif

// operator describes one operator of domain "pelton". Types of inputs and outputs are letters: f float32, h float16,
// b uint8, i int32, l int64; a capital one may be left out. All lie in the provider's own memory.
typedef struct {
    OrtCustomOp base; // first: the library hands a pointer to it back; filled when it is registered
    const char *name, *inputs, *outputs, *provider; // provider NULL is the CPU's
    OrtStatus *(*create)(const OrtKernelInfo *, void **kernel); // the kernel is freed with free()
    OrtStatus *(*compute)(void *kernel, OrtKernelContext *);    // may run on several threads at once
} operator;

// The operators, each in its own file.
extern operator attention_operator, block_product, block_rows, decode_attention, gate_operator, best_operator;

#define MAX_RANK 8

// tensor is an input or output of a running kernel; data is NULL for an input that is left out.
typedef struct {
    void *data;
    int64_t dims[MAX_RANK];
    size_t rank;
} tensor;

static inline size_t elements(const tensor *t) {
    size_t n = 1;
    for (size_t i = 0; i < t->rank; i++) n *= t->dims[i];
    return n;
}

static inline int is(const tensor *t, size_t rank, int64_t first, int64_t last) {
    return t->rank == rank && t->dims[0] == first && t->dims[rank - 1] == last;
}

// Each returns NULL or the error that the kernel returns in turn.
OrtStatus *input(const OrtKernelContext *, size_t index, tensor *);
OrtStatus *output(OrtKernelContext *, size_t index, tensor *); // of the shape that the tensor has
OrtStatus *int_attribute(const OrtKernelInfo *, const char *name, int64_t low, int64_t high, int64_t *value);
OrtStatus *flag_attribute(const OrtKernelInfo *, const char *name, int64_t *value); // 0 where it is left out

// invalid makes an error of a text like printf's.
OrtStatus *invalid(const char *format, ...) __attribute__((format(printf, 1, 2)));

// take copies an error's message for Go and releases the error; NULL stays NULL.
char *take(OrtStatus *);

// parallel runs task(data, i) for i below n on the session's own threads, and returns when all are done.
OrtStatus *parallel(const OrtKernelContext *, void (*task)(void *data, size_t i), size_t n, void *data);

// try returns from a function with the error of a call, if it has one.
#define try(call)                                                                                               \
    do {                                                                                                        \
        OrtStatus *error_ = (call);                                                                             \
        if (error_) return error_;                                                                              \
    } while (0)

// The instructions that kernels may use, in rising order; PORTABLE is what every processor has.
enum level { PORTABLE, AVX2, AVX512VNNI, AMX, LEVELS };
extern enum level level; // in use, see kernels.Select

#if defined(__x86_64__)
#define TARGET_AVX2 __attribute__((target("avx2,fma,f16c")))
#define TARGET_AVX512 __attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")))
#endif

#endif
