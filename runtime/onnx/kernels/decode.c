//go:build cgo && (linux || darwin)

// Operator DecodeAttention, for ONNX Runtime's CUDA provider: grouped-query attention with rotary embedding (over
// halves) of sequences that bring one token each, the first of a call, over a cache in pages, which is an input and
// written to in place. What the others' attention gave is put behind. Its kernels are in gpu.cu.
//
//   inputs      qkv [T, (heads + 2 kv_heads) * dim] half
//               others [T - n, heads * dim] half
//               keys, values [pages, page, kv_heads, dim] half: the cache; a page holds a power of two of tokens
//               held [n] int32: tokens of each sequence that are in the cache
//               table [n, width] int32: its pages
//               cos, sin [positions, dim/2] half
//   outputs     [T, heads * dim] half, and memory that the kernels use
//   attributes  heads, kv_heads

#include "gpu.h"

#include <math.h>
#include <stdlib.h>

enum { THREADS = 128, EACH = 8, MOST_DIM = 128, MOST_SPLITS = 64, MOST_SHARE = 1 << (SHARES - 1), BLOCKS_EACH = 3 }; // as in gpu.cu; blocks that a multiprocessor runs at once

// call is what the kernels get, see gpu.cu.
typedef struct {
    const void *qkv, *cos, *sin;
    void *keys, *values, *out, *parts;
    const void *held, *table;
    int heads, kv_heads, dim, bits, width, splits, pages;
    float scale;
} call;

typedef struct {
    int64_t heads, kv_heads;
} form;

static OrtStatus *create(const OrtKernelInfo *info, void **kernel) {
    form f;
    try(int_attribute(info, "heads", 1, 1 << 16, &f.heads));
    try(int_attribute(info, "kv_heads", 1, f.heads, &f.kv_heads));
    if (f.heads % f.kv_heads) return invalid("%lld heads over %lld of the cache", (long long)f.heads, (long long)f.kv_heads);
    form *copy = malloc(sizeof f);
    if (!copy) return invalid("out of memory");
    *copy = f, *kernel = copy;
    return NULL;
}

static OrtStatus *run(const gpu *g, call *c, int rows, void *stream) {
    int share = c->heads / c->kv_heads, size = 0, lanes = c->dim > 8 * EACH;
    while (size < SHARES - 1 && 1 << size < share) size++;
    int groups = c->kv_heads * ((share + (1 << size) - 1) >> size);
    try(gpu_launch("attention", g->decode[lanes][size], rows, groups, c->splits, THREADS, stream, c));
    if (c->splits == 1) return NULL;
    return gpu_launch("merge", g->merge, rows * c->heads, 1, 1, THREADS, stream, c);
}

// splits is by how many blocks a head of a sequence is shared, so that all multiprocessors have work.
static int splits(const gpu *g, const call *c, int rows) {
    int64_t blocks = (int64_t)rows * c->kv_heads * ((c->heads / c->kv_heads + MOST_SHARE - 1) / MOST_SHARE);
    int64_t wanted = (BLOCKS_EACH * g->multiprocessors + blocks - 1) / blocks, most = ((int64_t)c->width << c->bits) / 64;
    if (wanted > most) wanted = most;
    return wanted < 1 ? 1 : wanted > MOST_SPLITS ? MOST_SPLITS : (int)wanted;
}

static OrtStatus *compute(void *kernel, OrtKernelContext *context) {
    const form *f = kernel;
    tensor qkv, others, keys, values, held, table, cos, sin, out = {.rank = 2}, parts = {.rank = 1};
    tensor *const in[] = {&qkv, &others, &keys, &values, &held, &table, &cos, &sin};
    for (size_t i = 0; i < sizeof in / sizeof *in; i++) try(input(context, i, in[i]));
    int64_t all = f->heads + 2 * f->kv_heads, dim = qkv.rank == 2 ? qkv.dims[1] / all : 0;
    if (dim < EACH || dim > MOST_DIM || dim % EACH || qkv.dims[1] != dim * all)
        return invalid("qkv is not [T, %lld * dim] with dim a multiple of %d up to %d", (long long)all, EACH, MOST_DIM);
    int64_t rows = held.rank == 1 ? held.dims[0] : 0, tokens = qkv.dims[0], width = f->heads * dim, page = keys.rank == 4 ? keys.dims[1] : 0;
    if (rows < 1 || !is(&table, 2, rows, table.dims[1]) || table.dims[1] < 1 || !is(&others, 2, tokens - rows, width))
        return invalid("held, table and others are not [n], [n, width] and [%lld - n, %lld]", (long long)tokens, (long long)width);
    if (page < 1 || page & (page - 1) || keys.dims[0] < 1 || !is(&keys, 4, keys.dims[0], dim) || keys.dims[2] != f->kv_heads || !is(&values, 4, keys.dims[0], dim) || values.dims[1] != page || values.dims[2] != f->kv_heads)
        return invalid("keys and values are not [pages, a power of two, %lld, %lld]", (long long)f->kv_heads, (long long)dim);
    if (cos.rank != 2 || !is(&cos, 2, cos.dims[0], dim / 2) || !is(&sin, 2, cos.dims[0], dim / 2))
        return invalid("cos and sin are not [positions, %lld]", (long long)dim / 2);
    gpu *g;
    void *stream;
    try(gpu_current(&g));
    try(ort(KernelContext_GetGPUComputeStream)(context, &stream));
    out.dims[0] = tokens, out.dims[1] = width;
    try(output(context, 0, &out));
    call c = {
        .qkv = qkv.data, .cos = cos.data, .sin = sin.data, .keys = keys.data, .values = values.data, .out = out.data, .held = held.data, .table = table.data,
        .heads = f->heads, .kv_heads = f->kv_heads, .dim = dim, .bits = __builtin_ctzll(page), .width = table.dims[1], .pages = keys.dims[0],
        .scale = 1 / sqrtf(dim) * (float)M_LOG2E,
    };
    c.splits = splits(g, &c, rows);
    parts.dims[0] = c.splits > 1 ? rows * f->heads * c.splits * (dim + 2) : 1;
    try(output(context, 1, &parts));
    c.parts = parts.data;
    try(run(g, &c, rows, stream));
    if (tokens == rows) return NULL;
    return gpu_copy((char *)out.data + 2 * rows * width, others.data, 2 * (tokens - rows) * width, stream);
}

operator decode_attention = {
    .name = "DecodeAttention", .provider = "CUDAExecutionProvider", .inputs = "hhhhiihh", .outputs = "hf", .create = create, .compute = compute,
};
