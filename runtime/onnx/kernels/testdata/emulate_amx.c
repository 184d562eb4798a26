// Runs the kernels of blocks_amx.c on any processor, with the few instructions that they use written out, and compares
// their bits, and those of whole products with them, with the definition. Prints what differs. Run by TestAMXEmulated.
//
//   cc -std=c11 -I.. emulate_amx.c -lm

#define EMULATED
#include "blocks_portable.c"

#include <stdio.h>
#include <stdlib.h>

typedef struct {
    float f[16];
} __m512;
typedef struct {
    uint8_t b[64];
} __m512i;
typedef struct {
    uint8_t b[32];
} __m256i;

static __m512i _mm512_set1_epi8(char v) {
    __m512i r;
    memset(&r, v, sizeof r);
    return r;
}

static __m512i _mm512_loadu_si512(const void *at) {
    __m512i r;
    memcpy(&r, at, sizeof r);
    return r;
}

#define _MM_HINT_T1 0
static void _mm_prefetch(const void *at, int hint) {}

static __m512i _mm512_load_si512(const void *at) {
    if ((uintptr_t)at % 64) abort(); // so would the processor
    return _mm512_loadu_si512(at);
}

static void _mm512_storeu_si512(void *at, __m512i v) { memcpy(at, &v, sizeof v); }

static __m512i _mm512_and_si512(__m512i a, __m512i b) {
    for (int i = 0; i < 64; i++) a.b[i] &= b.b[i];
    return a;
}

static __m512i _mm512_xor_si512(__m512i a, __m512i b) {
    for (int i = 0; i < 64; i++) a.b[i] ^= b.b[i];
    return a;
}

static __m512i _mm512_slli_epi32(__m512i a, int by) {
    uint32_t n[16];
    memcpy(n, &a, sizeof n);
    for (int i = 0; i < 16; i++) n[i] <<= by;
    memcpy(&a, n, sizeof n);
    return a;
}

static __m512i _mm512_add_epi32(__m512i a, __m512i b) {
    uint32_t n[16], m[16];
    memcpy(n, &a, sizeof n), memcpy(m, &b, sizeof m);
    for (int i = 0; i < 16; i++) n[i] += m[i];
    memcpy(&a, n, sizeof n);
    return a;
}

static __m512i _mm512_srli_epi16(__m512i a, int by) {
    uint16_t w[32];
    memcpy(w, &a, sizeof w);
    for (int i = 0; i < 32; i++) w[i] >>= by;
    memcpy(&a, w, sizeof w);
    return a;
}

static __m512 _mm512_setzero_ps(void) { return (__m512){0}; }

static __m512 _mm512_set1_ps(float v) {
    __m512 r;
    for (int i = 0; i < 16; i++) r.f[i] = v;
    return r;
}

static __m512 _mm512_loadu_ps(const float *at) {
    __m512 r;
    memcpy(&r, at, sizeof r);
    return r;
}

static void _mm512_storeu_ps(float *at, __m512 v) { memcpy(at, &v, sizeof v); }

static __m512 _mm512_mul_ps(__m512 a, __m512 b) {
    for (int i = 0; i < 16; i++) a.f[i] *= b.f[i];
    return a;
}

static __m512 _mm512_fmadd_ps(__m512 a, __m512 b, __m512 c) {
    for (int i = 0; i < 16; i++) c.f[i] = fmaf(a.f[i], b.f[i], c.f[i]);
    return c;
}

static __m512 _mm512_cvtepi32_ps(__m512i v) {
    int32_t n[16];
    __m512 r;
    memcpy(n, &v, sizeof n);
    for (int i = 0; i < 16; i++) r.f[i] = (float)n[i];
    return r;
}

static __m256i _mm256_loadu_si256(const __m256i *at) {
    __m256i r;
    memcpy(&r, at, sizeof r);
    return r;
}

static __m512 _mm512_cvtph_ps(__m256i v) {
    uint16_t h[16];
    __m512 r;
    memcpy(h, &v, sizeof h);
    for (int i = 0; i < 16; i++) r.f[i] = half(h[i]);
    return r;
}

// Eight tiles of up to 16 rows of 64 bytes, of the shapes that were loaded.
static uint8_t tiles[8][16][64];
static struct {
    uint8_t palette, start, zero[14];
    uint16_t bytes[16];
    uint8_t rows[16];
} shapes;

static void _tile_loadconfig(const void *at) {
    memcpy(&shapes, at, sizeof shapes);
    memset(tiles, 0, sizeof tiles);
}

static void _tile_release(void) { memset(&shapes, 0, sizeof shapes); }

static void used(int t) {
    if (shapes.palette != 1 || !shapes.rows[t] || shapes.rows[t] > 16 || !shapes.bytes[t] || shapes.bytes[t] > 64) abort(); // so would the processor
}

static void _tile_zero(int t) {
    used(t);
    memset(tiles[t], 0, sizeof tiles[t]);
}

static void _tile_loadd(int t, const void *at, size_t stride) {
    used(t);
    memset(tiles[t], 0, sizeof tiles[t]);
    for (int r = 0; r < shapes.rows[t]; r++) memcpy(tiles[t][r], (const uint8_t *)at + r * stride, shapes.bytes[t]);
}

static void _tile_stored(int t, void *at, size_t stride) {
    used(t);
    for (int r = 0; r < shapes.rows[t]; r++) memcpy((uint8_t *)at + r * stride, tiles[t][r], shapes.bytes[t]);
}

// add_products adds to 32-bit numbers the products of four bytes of a, signed or not, with four signed ones of b.
static void add_products(int c, int a, int b, int is_signed) {
    used(c), used(a), used(b);
    if (shapes.rows[c] != shapes.rows[a] || shapes.bytes[c] != shapes.bytes[b] || shapes.bytes[a] != 4 * shapes.rows[b]) abort(); // so would the processor
    for (int m = 0; m < shapes.rows[c]; m++)
        for (int n = 0; n < shapes.bytes[c] / 4; n++) {
            int32_t sum;
            memcpy(&sum, &tiles[c][m][4 * n], 4);
            for (int k = 0; k < shapes.rows[b]; k++)
                for (int i = 0; i < 4; i++) {
                    const uint8_t x = tiles[a][m][4 * k + i];
                    sum += (is_signed ? (int8_t)x : x) * (int8_t)tiles[b][k][4 * n + i];
                }
            memcpy(&tiles[c][m][4 * n], &sum, 4);
        }
}

static void _tile_dpbssd(int c, int a, int b) { add_products(c, a, b, 1); }
static void _tile_dpbusd(int c, int a, int b) { add_products(c, a, b, 0); }

#include "blocks_amx.c"

// What product.c wants of the rest, on one thread.
const block_kernels blocks_avx2 = {quantize, tile, gate}, blocks_avx512 = {quantize, tile, gate};
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

#include "product.c"

// product runs a whole product at a level.
static void product(enum level at, const form *f, const float *x, const uint8_t *weights, float *out, size_t rows) {
    level = at;
    size_t groups = (f->rows + GROUP - 1) / GROUP;
    work w = {.form = f, .kernels = kernels(), .x = x, .out = out, .weights = weights, .rows = rows, .groups = f->gated ? groups / 2 : groups};
    w.many = kernels_for_many(f, rows);
    run(NULL, &w);
}

static int products_same(size_t rows, int bits, int wide, int gated) {
    const form f = {.rows = 70 - 6 * gated, .columns = 5 * BLOCK, .bits = bits, .wide = wide, .gated = gated};
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
    product(PORTABLE, &f, x, weights, one, rows);
    product(AMX, &f, x, weights, other, rows);
    const int equal = !memcmp(one, other, values * sizeof *one);
    free(weights), free(x), free(one), free(other);
    return equal;
}

int main(void) {
    for (int kind = 0; kind < 4; kind++) printf("%d bits, wide %d: %s\n", kind & 2 ? 8 : 4, kind & 1, same(kind & 2 ? 8 : 4, kind & 1) ? "same" : "FAIL");
    int products = 0;
    for (size_t rows = 1; rows <= 70; rows += rows < 20 ? 1 : 7)
        for (int kind = 0; kind < 8; kind++, products++)
            if (!products_same(rows, kind & 4 ? 8 : 4, kind & 1, kind >> 1 & 1)) printf("FAIL: %zu rows, kind %d\n", rows, kind);
    printf("%d products compared\n", products);
    return 0;
}
