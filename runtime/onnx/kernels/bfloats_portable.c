//go:build cgo && (linux || darwin)

// The definition of the products of bfloat16, for any processor, and the same for AVX2.

#include "bfloat.h"
#include "blocks.h"

#define INLINE static inline __attribute__((always_inline))

static void shorten_portable(const form *f, const float *x, const float *norm, size_t n, uint16_t *to) {
    const size_t columns = f->columns;
    memset(to, 0, columns * CHUNK * sizeof *to);
    for (size_t m = 0; m < n; m++, x += columns) {
        const float unit = norm ? unit_of(f, x) : 1;
        for (size_t k = 0; k < columns; k++) {
            const float y = norm ? x[k] * unit * norm[k] : x[k];
            to[k / 2 * 2 * CHUNK + 2 * m + k % 2] = bfloat_of(y);
        }
    }
}

// weights makes numbers of a block's weights, column after column.
INLINE void weights(const form *f, const uint8_t *block, float to[BLOCK][GROUP]) {
    float scale[GROUP], minimum[GROUP];
    for (int r = 0; r < GROUP; r++) {
        scale[r] = LIFT * number(f, block, r);
        minimum[r] = f->bits == 4 ? LIFT * number(f, block, GROUP + r) : 0;
        for (int k = 0; k < BLOCK; k++) {
            const float q = weight(f, block, r, k) - (f->bits == 8 ? 128 : 0);
            to[k][r] = bfloat_number(cut_off(fmaf(q, scale[r], minimum[r])));
        }
    }
}

INLINE void multiply_any(const form *f, const uint8_t *group, const uint16_t *x, size_t n, float *out, size_t stride) {
    float w[BLOCK][GROUP];
    for (size_t m = 0; m < n; m++) memset(out + m * stride, 0, GROUP * sizeof *out);
    for (size_t b = 0; b < blocks_of(f); b++, group += block_bytes(f), x += BLOCK * CHUNK) {
        weights(f, group, w);
        for (size_t m = 0; m < n; m++) {
            const uint16_t *pair = x + m / CHUNK * CHUNK * f->columns + 2 * (m % CHUNK);
            float even[GROUP] = {0}, odd[GROUP] = {0};
            for (int k = 0; k < BLOCK; k += 2, pair += 2 * CHUNK) {
                const float x0 = bfloat_number(pair[0]), x1 = bfloat_number(pair[1]);
                for (int r = 0; r < GROUP; r++) even[r] += w[k][r] * x0;
                for (int r = 0; r < GROUP; r++) odd[r] += w[k + 1][r] * x1;
            }
            for (int r = 0; r < GROUP; r++) out[m * stride + r] += even[r] + odd[r];
        }
    }
}

static void multiply_portable(const form *f, const uint8_t *group, const uint16_t *x, size_t n, float *out, size_t stride) { multiply_any(f, group, x, n, out, stride); }

const bfloat_kernels bfloats_portable = {.shorten = shorten_portable, .multiply = multiply_portable};

#if defined(__x86_64__)
static TARGET_AVX2 void multiply_avx2(const form *f, const uint8_t *group, const uint16_t *x, size_t n, float *out, size_t stride) { multiply_any(f, group, x, n, out, stride); }

const bfloat_kernels bfloats_avx2 = {.shorten = shorten_portable, .multiply = multiply_avx2};
#endif
