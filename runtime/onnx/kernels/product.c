//go:build cgo && (linux || darwin)

#include "blocks.h"

#include <stdlib.h>
#include <string.h>

// BlockProduct: out = x·Wᵀ.
//   x [..., columns] float, weights [groups, bytes] as blocks.h has them; out [..., rows] float.
//   norm [columns] float may be left out: x is normed before, x/sqrt(mean(x²) + epsilon)·norm.
//   residual, as out, may be left out: it is added.
//   Attributes columns (a multiple of 32), rows (of W), bits (4 or 8), wide (scales in single precision),
//   gated: W's groups are in turn of two matrices, gate and up, and out = silu(x·gateᵀ)·(x·upᵀ) with half
//   as many columns; epsilon, which is needed with norm only.

OrtStatus *create_form(const OrtKernelInfo *info, void **kernel) {
    form f = {0};
    try(int_attribute(info, "rows", 1, 1 << 24, &f.rows));
    try(int_attribute(info, "columns", BLOCK, 1 << 20, &f.columns));
    try(int_attribute(info, "bits", 4, 8, &f.bits));
    try(int_attribute(info, "wide", 0, 1, &f.wide));
    try(int_attribute(info, "gated", 0, 1, &f.gated));
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

// LEAST_MANY is from how many rows on kernels for many are used: a group is unpacked for all of them first.
enum { LEAST_MANY = 12 };

static const many_kernels *kernels_for_many(const form *f, size_t rows) {
#if defined(__x86_64__) && defined(__linux__)
    if (level >= AMX && rows >= LEAST_MANY) return &many_amx;
#endif
    return NULL;
}

// work is one product under way.
typedef struct {
    const form *form;
    const block_kernels *kernels;
    const many_kernels *many; // NULL: for few rows
    const float *x, *norm, *residual; // norm and residual NULL: without
    float *out;
    const uint8_t *weights;
    activations a;
    size_t rows;          // of x
    size_t groups, share; // groups of weights (pairs of them when gated), and how many a task takes
} work;

static void quantize_row(void *data, size_t row) {
    const work *w = data;
    w->kernels->quantize(w->form, w->x + row * w->form->columns, w->norm, &w->a, row);
    if (w->many) spread(w->form, &w->a, row);
}

// multiply_rows multiplies n rows with a group, which is unpacked if it is for many.
static void multiply_rows(const work *w, const uint8_t *group, const uint8_t *unpacked, size_t row, size_t n, float out[MANY][GROUP]) {
    if (unpacked && n > TILE) {
        w->many->many(w->form, group, unpacked, &w->a, row, n, out);
        return;
    }
    for (size_t m = 0; m < n; m += TILE) w->kernels->tile(w->form, group, &w->a, row + m, n - m < TILE ? n - m : TILE, out + m);
}

// multiply_group multiplies all rows with group g; unpacked is memory for it, NULL for few rows.
static void multiply_group(const work *w, size_t g, uint8_t *unpacked) {
    const form *f = w->form;
    size_t bytes = blocks_of(f) * block_bytes(f), width = f->gated ? f->rows / 2 : f->rows, at = g * GROUP, most = unpacked ? MANY : TILE;
    size_t columns = width - at < GROUP ? width - at : GROUP;
    const uint8_t *weights = w->weights + g * bytes * (f->gated ? 2 : 1);
    uint8_t *second = unpacked && f->gated ? unpacked + GROUP * f->columns : NULL;
    float out[MANY][GROUP], up[MANY][GROUP];
    if (unpacked) w->many->unpack(f, weights, unpacked);
    if (second) w->many->unpack(f, weights + bytes, second);
    for (size_t row = 0; row < w->rows; row += most) {
        size_t n = w->rows - row < most ? w->rows - row : most;
        for (size_t m = 0; m < n; m++) { // a row is far from the next one
            __builtin_prefetch(w->out + (row + m) * width + at, 1);
            if (w->residual) __builtin_prefetch(w->residual + (row + m) * width + at);
        }
        multiply_rows(w, weights, unpacked, row, n, out);
        if (f->gated) multiply_rows(w, weights + bytes, second, row, n, up);
        for (size_t m = 0; m < n; m++) {
            if (f->gated) w->kernels->gate(out[m], up[m]);
            float *to = w->out + (row + m) * width + at;
            if (w->residual)
                for (size_t i = 0; i < columns; i++) out[m][i] += w->residual[(row + m) * width + at + i];
            if (columns == GROUP) memcpy(to, out[m], sizeof out[m]); // a size that the compiler knows
            else memcpy(to, out[m], columns * sizeof *to);
        }
    }
}

// NEAR is the most bytes that are unpacked on the stack.
enum { NEAR = 1 << 16 };

static void multiply(void *data, size_t i) {
    const work *w = data;
    size_t end = (i + 1) * w->share < w->groups ? (i + 1) * w->share : w->groups, bytes = (w->form->gated ? 2 : 1) * GROUP * w->form->columns;
    uint8_t near[NEAR] __attribute__((aligned(64))), *far = w->many && bytes > NEAR ? malloc(bytes) : NULL;
    uint8_t *unpacked = w->many && bytes <= NEAR ? near : far; // without memory as for few rows
    if (unpacked) w->many->begin();
    for (size_t g = i * w->share; g < end; g++) multiply_group(w, g, unpacked);
    if (unpacked) w->many->end();
    free(far);
}

// Tasks of at least this many multiplications: long enough to pay for the hand-over to another thread, short
// enough that a thread which lost its core does not keep the others waiting. Kernels for many rows are faster, and
// begin and end in each.
enum { TASK = 1 << 17, TASK_OF_MANY = 1 << 20 };

static OrtStatus *run(const OrtKernelContext *c, work *w) {
    const form *f = w->form;
    size_t values = w->rows * f->columns, blocks = w->rows * blocks_of(f);
    size_t filled = (w->rows + MANY - 1) / MANY * MANY, lanes = w->many ? 2 * filled * blocks_of(f) : 0;
    size_t bytes = (w->many ? filled : w->rows) * f->columns * (f->bits / 4), halves = w->many && f->bits == 8 ? bytes : 0;
    char *memory = malloc(4 * lanes + 3 * 4 * blocks + bytes + halves);
    if (!memory) return invalid("out of memory for %zu rows", w->rows);
    float *numbers = (float *)memory + lanes;
    w->a = (activations){.scale = numbers, .sum = numbers + blocks, .shift = (int32_t *)numbers + 2 * blocks, .q = numbers + 3 * blocks, .lanes = w->many ? (float *)memory : NULL};
    if (halves) w->a.halves = (int8_t *)w->a.q + bytes;
    OrtStatus *error = NULL;
    if (values < 1 << 14) // a few microseconds
        for (size_t row = 0; row < w->rows; row++) quantize_row(w, row);
    else
        error = parallel(c, quantize_row, w->rows, w);
    size_t tasks = w->rows * f->columns * f->rows / (w->many ? TASK_OF_MANY : TASK);
    if (tasks > w->groups) tasks = w->groups;
    w->share = tasks < 2 ? w->groups : (w->groups + tasks - 1) / tasks;
    if (!error) error = parallel(c, multiply, (w->groups + w->share - 1) / w->share, w);
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
    work w = {.form = f, .kernels = kernels(), .x = x.data, .norm = norm.data, .residual = residual.data, .out = out.data, .weights = weights.data,
              .rows = elements(&x) / f->columns, .groups = f->gated ? groups / 2 : groups};
    w.many = kernels_for_many(f, w.rows);
    return w.rows ? run(c, &w) : NULL;
}

operator block_product = {.name = "BlockProduct", .inputs = "fbFF", .outputs = "f", .create = create, .compute = compute};
