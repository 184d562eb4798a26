//go:build cgo && (linux || darwin)

#include "blocks.h"

#include <stdlib.h>
#include <string.h>

// BlockProduct: out = x·Wᵀ.
//   x [..., columns] float, weights [groups, bytes] as blocks.h has them; out [..., rows] float.
//   norm [columns] float may be left out: x is normed before, x/sqrt(mean(x²) + epsilon)·norm.
//   residual, as out, may be left out: it is added.
//   Attributes columns (a multiple of 32), rows (of W), bits (4 or 8), wide (scales in single precision), bfloat16 (what weights
//   and x are multiplied as; may be left out),
//   gated: W's groups are in turn of two matrices, gate and up, and out = silu(x·gateᵀ)·(x·upᵀ) with half
//   as many columns; epsilon, which is needed with norm only.

OrtStatus *create_form(const OrtKernelInfo *info, void **kernel) {
    form f = {0};
    try(int_attribute(info, "rows", 1, 1 << 24, &f.rows));
    try(int_attribute(info, "columns", BLOCK, 1 << 20, &f.columns));
    try(int_attribute(info, "bits", 4, 8, &f.bits));
    try(int_attribute(info, "wide", 0, 1, &f.wide));
    try(int_attribute(info, "gated", 0, 1, &f.gated));
    try(flag_attribute(info, "bfloat16", &f.bfloat16));
    if (f.columns % BLOCK || f.bits % 4 || (f.gated && f.rows % (2 * GROUP)))
        return invalid("no blocks of %lld rows and %lld columns in %lld bits", (long long)f.rows, (long long)f.columns, (long long)f.bits);
    if (!(*kernel = malloc(sizeof f))) return invalid("out of memory");
    *(form *)*kernel = f;
    return NULL;
}

OrtStatus *check_weights(const form *f, const tensor *weights) {
    size_t groups = (f->rows + GROUP - 1) / GROUP, bytes = blocks_of(f) * block_bytes(f);
    if (weights->rank == 2 && weights->dims[0] == (int64_t)groups && weights->dims[1] == (int64_t)bytes) return NULL;
    return invalid("weights are not [%zu, %zu]", groups, bytes);
}

static const block_kernels *kernels(void) {
#if defined(__x86_64__)
    if (level >= AVX512VNNI) return &blocks_avx512;
    if (level == AVX2) return &blocks_avx2;
#endif
    return &blocks_portable;
}

static const bfloat_kernels *bfloats(void) {
#if defined(__x86_64__)
#if defined(__linux__)
    if (level >= AMX) return &bfloats_amx;
#endif
    if (level >= AVX2) return &bfloats_avx2;
#endif
    return &bfloats_portable;
}

// work is one product under way.
typedef struct {
    const form *form;
    const block_kernels *kernels;
    const bfloat_kernels *bfloats;
    const float *x, *norm, *residual; // norm and residual NULL: without
    float *out;
    const uint8_t *weights;
    activations a;        // in whole numbers
    uint16_t *brief;      // in bfloat16
    size_t rows;          // of x
    size_t groups, share; // groups of weights (pairs of them when gated), and how many a task takes
} work;

static void quantize_row(void *data, size_t row) {
    const work *w = data;
    w->kernels->quantize(w->form, w->x + row * w->form->columns, w->norm, &w->a, row);
}

static void shorten_chunk(void *data, size_t chunk) {
    const work *w = data;
    const size_t row = chunk * CHUNK, n = w->rows - row < CHUNK ? w->rows - row : CHUNK;
    w->bfloats->shorten(w->form, w->x + row * w->form->columns, w->norm, n, w->brief + row * w->form->columns);
}

// multiply_group multiplies all rows with group g.
static void multiply_group(const work *w, size_t g) {
    const form *f = w->form;
    size_t bytes = blocks_of(f) * block_bytes(f), width = f->gated ? f->rows / 2 : f->rows, at = g * GROUP, most = w->brief ? MANY : TILE;
    size_t columns = width - at < GROUP ? width - at : GROUP;
    const uint8_t *weights = w->weights + g * bytes * (f->gated ? 2 : 1);
    float near[MANY][GROUP], up[MANY][GROUP];
    for (size_t row = 0; row < w->rows; row += most) {
        size_t n = w->rows - row < most ? w->rows - row : most;
        float *out = w->out + row * width + at, *to = near[0];
        const float *residual = w->residual ? w->residual + row * width + at : NULL;
        size_t stride = GROUP;
        for (size_t m = 0; m < n; m++) { // a row is far from the next one
            __builtin_prefetch(out + m * width, 1);
            if (residual) __builtin_prefetch(residual + m * width);
        }
        if (w->brief) {
            const uint16_t *x = w->brief + row * f->columns;
            if (columns == GROUP) to = out, stride = width;
            w->bfloats->multiply(f, weights, x, n, to, stride);
            if (f->gated) w->bfloats->multiply(f, weights + bytes, x, n, up[0], GROUP);
        } else {
            w->kernels->tile(f, weights, &w->a, row, n, near);
            if (f->gated) w->kernels->tile(f, weights + bytes, &w->a, row, n, up);
        }
        for (size_t m = 0; m < n; m++, to += stride, out += width) {
            if (f->gated) w->kernels->gate(to, up[m]);
            if (residual)
                for (size_t i = 0; i < columns; i++) to[i] += residual[m * width + i];
            if (to == out) continue;
            if (columns == GROUP) memcpy(out, to, GROUP * sizeof *to); // a size that the compiler knows
            else memcpy(out, to, columns * sizeof *to);
        }
    }
}

static void multiply_share(void *data, size_t i) {
    const work *w = data;
    size_t end = (i + 1) * w->share < w->groups ? (i + 1) * w->share : w->groups;
    if (w->brief && w->bfloats->begin) w->bfloats->begin();
    for (size_t g = i * w->share; g < end; g++) multiply_group(w, g);
    if (w->brief && w->bfloats->end) w->bfloats->end();
}

// Tasks of at least this many multiplications: long enough to pay for the hand-over to another thread, short
// enough that a thread which lost its core does not keep the others waiting. Of bfloat16 unpacking a group takes as long
// as UNPACKED rows.
enum { TASK = 1 << 17, TASK_OF_BFLOATS = 1 << 22, UNPACKED = 40 };

// FEW values are rounded in a few microseconds.
enum { FEW = 1 << 14 };

// share_out shares the groups out among tasks.
static OrtStatus *share_out(const OrtKernelContext *c, work *w) {
    const form *f = w->form;
    size_t tasks = w->brief ? (w->rows + UNPACKED) * f->columns * f->rows / TASK_OF_BFLOATS : w->rows * f->columns * f->rows / TASK;
    if (tasks > w->groups) tasks = w->groups;
    w->share = tasks < 2 ? w->groups : (w->groups + tasks - 1) / tasks;
    return parallel(c, multiply_share, (w->groups + w->share - 1) / w->share, w);
}

static OrtStatus *run_bfloats(const OrtKernelContext *c, work *w) {
    const size_t chunks = (w->rows + CHUNK - 1) / CHUNK;
    // no row of a tile lies in two lines of memory
    if (!(w->brief = aligned_alloc(64, chunks * CHUNK * w->form->columns * sizeof *w->brief))) return invalid("out of memory for %zu rows", w->rows);
    OrtStatus *error = NULL;
    if (w->rows * w->form->columns < FEW)
        for (size_t i = 0; i < chunks; i++) shorten_chunk(w, i);
    else
        error = parallel(c, shorten_chunk, chunks, w);
    if (!error) error = share_out(c, w);
    free(w->brief);
    return error;
}

static OrtStatus *run(const OrtKernelContext *c, work *w) {
    const form *f = w->form;
    size_t values = w->rows * f->columns, blocks = w->rows * blocks_of(f);
    char *memory = malloc(3 * 4 * blocks + values * (f->bits / 4));
    if (!memory) return invalid("out of memory for %zu rows", w->rows);
    float *numbers = (float *)memory;
    w->a = (activations){.scale = numbers, .sum = numbers + blocks, .shift = (int32_t *)numbers + 2 * blocks, .q = numbers + 3 * blocks};
    OrtStatus *error = NULL;
    if (values < FEW)
        for (size_t row = 0; row < w->rows; row++) quantize_row(w, row);
    else
        error = parallel(c, quantize_row, w->rows, w);
    if (!error) error = share_out(c, w);
    free(memory);
    return error;
}

static OrtStatus *create(const OrtKernelInfo *info, void **kernel) {
    try(create_form(info, kernel));
    OrtStatus *none = ort(KernelInfoGetAttribute_float)(info, "epsilon", &((form *)*kernel)->epsilon);
    if (none) ort(ReleaseStatus)(none);
    return NULL;
}

static OrtStatus *compute(void *kernel, OrtKernelContext *c) {
    const form *f = kernel;
    tensor x, weights, norm, residual, out;
    tensor *const in[] = {&x, &weights, &norm, &residual};
    for (size_t i = 0; i < sizeof in / sizeof *in; i++) try(input(c, i, in[i]));
    try(check_weights(f, &weights));
    size_t groups = (f->rows + GROUP - 1) / GROUP;
    if (!x.rank || x.dims[x.rank - 1] != f->columns) return invalid("the input's last dimension is not %lld", (long long)f->columns);
    out = x;
    out.dims[x.rank - 1] = f->gated ? f->rows / 2 : f->rows;
    if (norm.data && !(norm.rank == 1 && norm.dims[0] == f->columns && f->epsilon > 0))
        return invalid("the norm is not [%lld], or has no epsilon", (long long)f->columns);
    if (residual.data && (f->gated || elements(&residual) != elements(&out))) return invalid("the residual is not as the output, or the product gated");
    try(output(c, 0, &out));
    work w = {.form = f, .kernels = kernels(), .bfloats = bfloats(), .x = x.data, .norm = norm.data, .residual = residual.data, .out = out.data, .weights = weights.data,
              .rows = elements(&x) / f->columns, .groups = f->gated ? groups / 2 : groups};
    if (!w.rows) return NULL;
    return f->bfloat16 ? run_bfloats(c, &w) : run(c, &w);
}

operator block_product = {.name = "BlockProduct", .inputs = "fbFF", .outputs = "f", .create = create, .compute = compute};
