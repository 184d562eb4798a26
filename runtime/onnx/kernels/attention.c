//go:build cgo && (linux || darwin)

// Operator Attention: grouped-query attention with rotary embedding (over halves) of any tokens of any
// sequences, each of which sees those before it. It writes their keys and values into the cache, which is
// an input, in place.
//
//   inputs      qkv [T, (heads + 2 kv_heads) * dim] float
//               keys, values [slots, kv_heads, bytes] uint8: the cache, see attention.h
//               places [T, 2] int32: slot and position of each token; those of a slot are neighbors
//               cos, sin [positions, dim/2] float
//   output      [T, heads * dim] float
//   attributes  heads, kv_heads, width: bytes of a number of the cache, 2 or 4; bfloat16: they are that, with dim a
//               multiple of 32 up to 256; may be left out

#include "attention.h"

#include <math.h>
#include <stdlib.h>

typedef struct {
    int64_t heads, kv_heads, width, bfloat16;
} form;

static OrtStatus *create(const OrtKernelInfo *info, void **kernel) {
    form f = {0};
    try(int_attribute(info, "heads", 1, 1 << 16, &f.heads));
    try(int_attribute(info, "kv_heads", 1, f.heads, &f.kv_heads));
    try(int_attribute(info, "width", 2, 4, &f.width));
    try(flag_attribute(info, "bfloat16", &f.bfloat16));
    if (f.heads % f.kv_heads || f.width == 3 || (f.bfloat16 && f.width != 2))
        return invalid("%lld heads over %lld of the cache, whose numbers have %lld bytes", (long long)f.heads, (long long)f.kv_heads, (long long)f.width);
    form *copy = malloc(sizeof f);
    if (!copy) return invalid("out of memory");
    *copy = f, *kernel = copy;
    return NULL;
}

static const attention_kernels *kernels(const form *f) {
#if defined(__x86_64__) && defined(__linux__)
    if (f->bfloat16 && level >= AMX) return &attention_amx;
#endif
    if (f->bfloat16) return &attention_bfloats;
#if defined(__x86_64__)
    if (level >= AVX512VNNI) return &attention_avx512;
    if (level >= AVX2) return &attention_avx2;
#endif
    return &attention_portable;
}

typedef struct {
    attention a;
    const attention_kernels *kernels;
    tile *tiles;
    size_t n;
    int lone; // no two tokens are of one sequence
} work;

// cut makes tiles of a call. It reports whether all places lie in the cache, those of a sequence in order.
static int cut(work *w) {
    const attention *a = &w->a;
    size_t group = a->heads / a->kv_heads, most = group < w->kernels->rows ? w->kernels->rows / group : 1;
    w->lone = 1;
    for (size_t t = 0; t < a->tokens; t++) {
        const int32_t *place = a->places + 2 * t;
        if (place[0] < 0 || (size_t)place[0] >= a->slots || place[1] < 0 || (size_t)place[1] >= a->capacity || (size_t)place[1] >= a->positions)
            return 0;
        int joins = t > 0 && place[0] == place[-2];
        if (joins && place[1] != place[-1] + 1) return 0;
        w->lone &= !joins;
        if (joins && w->tiles[w->n - 1].count < most)
            w->tiles[w->n - 1].count++;
        else
            w->tiles[w->n++] = (tile){t, 1};
    }
    return 1;
}

static void append(void *data, size_t token) {
    const work *w = data;
    for (size_t h = 0; h < w->a.kv_heads; h++) w->kernels->append(&w->a, token, h);
}

static void attend(void *data, size_t i) {
    const work *w = data;
    tile t = w->tiles[i / w->a.kv_heads];
    size_t h = i % w->a.kv_heads;
    if (w->lone) w->kernels->append(&w->a, t.first, h);
    w->kernels->attend(&w->a, t, h);
}

static OrtStatus *run(const OrtKernelContext *c, work *w) {
    w->tiles = malloc(w->a.tokens * sizeof *w->tiles);
    if (!w->tiles) return invalid("out of memory for %zu tokens", w->a.tokens);
    OrtStatus *error = NULL;
    if (!cut(w)) error = invalid("a place is not in the cache of %zu slots of %zu tokens, or not in order", w->a.slots, w->a.capacity);
    if (!error && !w->lone) error = parallel(c, append, w->a.tokens, w);
    if (!error) error = parallel(c, attend, w->n * w->a.kv_heads, w);
    free(w->tiles);
    return error;
}

static OrtStatus *compute(void *kernel, OrtKernelContext *c) {
    const form *f = kernel;
    tensor qkv, keys, values, places, cos, sin, out = {.rank = 2};
    try(input(c, 0, &qkv));
    try(input(c, 1, &keys));
    try(input(c, 2, &values));
    try(input(c, 3, &places));
    try(input(c, 4, &cos));
    try(input(c, 5, &sin));
    int64_t all = f->heads + 2 * f->kv_heads, dim = qkv.rank == 2 ? qkv.dims[1] / all : 0, panel = PANEL * dim * f->width;
    if (dim < PANEL || dim > MAX_DIM || dim % PANEL || qkv.dims[1] != dim * all)
        return invalid("qkv is not [T, %lld * dim] with dim a multiple of %d up to %d", (long long)all, PANEL, MAX_DIM);
    if (f->bfloat16 && (dim % 32 || dim > BRIEF_DIM)) return invalid("heads of bfloat16 have %lld numbers, no multiple of 32 up to %d", (long long)dim, BRIEF_DIM);
    if (keys.rank != 3 || keys.dims[1] != f->kv_heads || keys.dims[2] % panel || !is(&values, 3, keys.dims[0], keys.dims[2]) || values.dims[1] != f->kv_heads)
        return invalid("keys and values are not [slots, %lld, panels * %lld]", (long long)f->kv_heads, (long long)panel);
    if (!is(&places, 2, qkv.dims[0], 2) || cos.rank != 2 || !is(&cos, 2, cos.dims[0], dim / 2) || !is(&sin, 2, cos.dims[0], dim / 2))
        return invalid("places are not [%lld, 2], or cos and sin not [positions, %lld]", (long long)qkv.dims[0], (long long)dim / 2);
    out.dims[0] = qkv.dims[0], out.dims[1] = f->heads * dim;
    try(output(c, 0, &out));
    work w = {.kernels = kernels(f), .a = {
        .heads = f->heads, .kv_heads = f->kv_heads, .dim = dim, .half = f->width == 2, .scale = 1 / sqrtf(dim),
        .slots = keys.dims[0], .capacity = keys.dims[2] / (dim * f->width), .positions = cos.dims[0],
        .cos = cos.data, .sin = sin.data, .keys = keys.data, .values = values.data,
        .qkv = qkv.data, .places = places.data, .out = out.data, .tokens = qkv.dims[0],
    }};
    return w.a.tokens ? run(c, &w) : NULL;
}

operator attention_operator = {.name = "Attention", .inputs = "fbbiff", .outputs = "f", .create = create, .compute = compute};
