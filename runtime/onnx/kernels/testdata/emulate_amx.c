// Runs the kernels of bfloats_amx.c on any processor, and compares their bits, and those of whole products with them, with
// the definition. Prints what differs. Run by TestAMXEmulated.
//
//   cc -std=c11 -I.. emulate_amx.c -lm

#include "emulate.h"

#include "blocks_portable.c"
#include "bfloats_portable.c"

#include <stdio.h>

#include "bfloats_amx.c"

// What product.c wants of the rest, on one thread.
const block_kernels blocks_avx2 = {0}, blocks_avx512 = {quantize, tile, gate};
const OrtApi *ort_api;
enum level level;

OrtStatus *parallel(const OrtKernelContext *c, void (*task)(void *, size_t), size_t n, void *data) {
    for (size_t i = 0; i < n; i++) task(data, i);
    return NULL;
}

OrtStatus *invalid(const char *format, ...) { abort(); }
OrtStatus *input(const OrtKernelContext *c, size_t index, tensor *t) { abort(); }
OrtStatus *output(OrtKernelContext *c, size_t index, tensor *t) { abort(); }
OrtStatus *int_attribute(const OrtKernelInfo *info, const char *name, int64_t low, int64_t high, int64_t *value) { abort(); }
OrtStatus *flag_attribute(const OrtKernelInfo *info, const char *name, int64_t *value) { abort(); }

#include "product.c"

// product runs a whole product at a level.
static void whole_product(enum level at, const form *f, const float *x, const uint8_t *weights, float *out, size_t rows) {
    level = at;
    size_t groups = (f->rows + GROUP - 1) / GROUP;
    work w = {.form = f, .kernels = kernels(), .bfloats = bfloats(), .x = x, .out = out, .weights = weights, .rows = rows, .groups = f->gated ? groups / 2 : groups};
    run_bfloats(NULL, &w);
}

static int products_same(size_t rows, int bits, int wide, int gated) {
    const form f = {.rows = 70 - 6 * gated, .columns = 5 * BLOCK, .bits = bits, .wide = wide, .gated = gated, .bfloat16 = 1};
    const size_t groups = (f.rows + GROUP - 1) / GROUP, bytes = groups * blocks_of(&f) * block_bytes(&f), values = rows * f.rows;
    uint8_t *weights = malloc(bytes);
    float *x = malloc(rows * f.columns * sizeof *x), *one = calloc(values, sizeof *one), *other = calloc(values, sizeof *other);
    for (size_t i = 0; i < bytes; i++) weights[i] = rand();
    for (size_t g = 0; g < groups * blocks_of(&f); g++)
        for (int i = 0; i < (bits == 4 ? 2 : 1) * GROUP; i++) {
            uint8_t *at = weights + g * block_bytes(&f) + GROUP * BLOCK * bits / 8;
            const float v = (float)rand() / RAND_MAX - .5f;
            const uint16_t h = 0x2000 + rand() % 0x1000;
            if (wide) memcpy(at + 4 * i, &v, 4);
            else memcpy(at + 2 * i, &h, 2);
        }
    for (size_t i = 0; i < rows * f.columns; i++) x[i] = (float)rand() / RAND_MAX - .5f;
    whole_product(PORTABLE, &f, x, weights, one, rows);
    whole_product(AMX, &f, x, weights, other, rows);
    const int equal = !memcmp(one, other, values * sizeof *one);
    free(weights), free(x), free(one), free(other);
    return equal;
}

int main(void) {
    for (int kind = 0; kind < 4; kind++) printf("%d bits, wide %d: %s\n", kind & 2 ? 8 : 4, kind & 1, same(kind & 2 ? 8 : 4, kind & 1) ? "same" : "FAIL");
    int products = 0;
    for (size_t rows = 1; rows <= 120; rows += rows < 20 ? 1 : 13)
        for (int kind = 0; kind < 8; kind++, products++)
            if (!products_same(rows, kind & 4 ? 8 : 4, kind & 1, kind >> 1 & 1)) printf("FAIL: %zu rows, kind %d\n", rows, kind);
    printf("%d products compared\n", products);
    return 0;
}
