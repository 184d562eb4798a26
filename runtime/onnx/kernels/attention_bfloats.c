//go:build cgo && (linux || darwin)

// Attention with a cache of bfloat16, for any processor.

#include "bfloat.h"

#pragma GCC diagnostic ignored "-Wpsabi" // vectors of 64 bytes stay in this file

#define TARGET
enum { LANES = 16 };
typedef float vec __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t ints __attribute__((vector_size(64), aligned(4), may_alias));

static inline vec fma_(vec a, vec b, vec c) {
    vec v;
    for (int i = 0; i < LANES; i++) v[i] = fmaf(a[i], b[i], c[i]);
    return v;
}

static inline vec larger(vec a, vec b) {
    vec v;
    for (int i = 0; i < LANES; i++) v[i] = a[i] > b[i] ? a[i] : b[i];
    return v;
}

#include "attention_bfloats.h"

static void begin(void) {}
static void end(void) {}

static void brief(vec low, vec high, uint16_t to[STEP]) {
    for (int i = 0; i < STEP; i++) to[i] = bfloat_of(i < LANES ? low[i] : high[i - LANES]);
}

static void pack(vec low, vec high, uint16_t to[STEP]) { brief(low, high, to); }

static void products(matrix c, int go_on, rows a, cached b, size_t steps) {
    for (size_t r = 0; r < a.tiles * TILE_ROWS; r++) {
        vec sum = go_on ? load(c.at + r * c.stride) : splat(0);
        for (size_t i = 0; i < steps; i++) {
            vec even = splat(0), odd = splat(0);
            for (size_t k = 0; k < STEP / 2; k++) {
                ints pairs;
                memcpy(&pairs, b.at + (i * STEP / 2 + k) * b.stride, sizeof pairs);
                const uint16_t *x = a.at + r * a.stride + i * STEP + 2 * k;
                even += (vec)(pairs << 16) * bfloat_number(x[0]); // a product is exact
                odd += (vec)(pairs & -65536) * bfloat_number(x[1]);
            }
            sum += even + odd;
        }
        store(c.at + r * c.stride, sum);
    }
}

const attention_kernels attention_bfloats = {append, attend, BRIEF_ROWS};
