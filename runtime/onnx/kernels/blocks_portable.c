//go:build cgo && (linux || darwin)

// The definition of the products, for any processor.

#include "blocks.h"

#include <string.h>

static void quantize(const form *f, const float *x, const float *norm, const activations *a, size_t row) {
    const float most = f->bits == 4 ? MOST4 : MOST8, unit = norm ? unit_of(f, x) : 1;
    size_t blocks = blocks_of(f), at = row * blocks;
    for (size_t b = 0; b < blocks; b++, x += BLOCK, at++) {
        float peak = 0, y[BLOCK];
        for (int i = 0; i < BLOCK; i++) {
            y[i] = norm ? x[i] * unit * norm[b * BLOCK + i] : x[i];
            peak = fmaxf(peak, fabsf(y[i]));
        }
        float inverse = peak > 1e-30f ? most / peak : 0;
        int32_t total = 0;
        for (int i = 0; i < BLOCK; i++) {
            float v = rintf(y[i] * inverse);
            int q = v >= -most && v <= most ? (int)v : 0;
            if (f->bits == 4) ((int8_t *)a->q)[at * BLOCK + i] = q;
            else ((int16_t *)a->q)[at * BLOCK + word(i)] = q;
            total += q;
        }
        finish(a, at, peak / most, total);
    }
}

void unpack_row(const form *f, const uint8_t *group, int r, float *out) {
    for (size_t b = 0; b < blocks_of(f); b++, group += block_bytes(f)) {
        float scale = number(f, group, r), minimum = f->bits == 4 ? number(f, group, GROUP + r) : -128 * scale;
        for (int k = 0; k < BLOCK; k++) *out++ = fmaf((float)weight(f, group, r, k), scale, minimum);
    }
}

static int32_t dot(const form *f, const uint8_t *block, int r, const activations *a, size_t at) {
    int32_t sum = f->bits == 4 ? 0 : a->shift[at];
    for (int k = 0; k < BLOCK; k++)
        sum += weight(f, block, r, k) * (f->bits == 4 ? ((int8_t *)a->q)[at * BLOCK + k] : ((int16_t *)a->q)[at * BLOCK + word(k)]);
    return sum;
}

static void tile(const form *f, const uint8_t *group, const activations *a, size_t row, size_t n, float out[TILE][GROUP]) {
    size_t blocks = blocks_of(f);
    memset(out, 0, n * sizeof *out);
    for (size_t b = 0; b < blocks; b++, group += block_bytes(f))
        for (size_t m = 0; m < n; m++) {
            size_t at = (row + m) * blocks + b;
            for (int r = 0; r < GROUP; r++) {
                float v = fmaf((float)dot(f, group, r, a, at), number(f, group, r) * a->scale[at], out[m][r]);
                out[m][r] = f->bits == 8 ? v : fmaf(number(f, group, GROUP + r), a->sum[at], v);
            }
        }
}

// exponential is e^x for x <= 0: 2^n times a polynomial on |r| <= ln(2)/2.
static float exponential(float x) {
    if (!(x > -87)) x = x != x ? x : -87;
    float n = rintf(x * 1.44269504f), r = fmaf(n, -0.693359375f, x), p = 1.9875691500e-4f;
    r = fmaf(n, 2.12194440e-4f, r);
    p = fmaf(p, r, 1.3981999507e-3f), p = fmaf(p, r, 8.3334519073e-3f), p = fmaf(p, r, 4.1665795894e-2f);
    p = fmaf(p, r, 1.6666665459e-1f), p = fmaf(p, r, 5.0000001201e-1f), p = fmaf(p, r * r, r) + 1;
    int32_t bits = x == x ? ((int32_t)n + 127) << 23 : 0x7fc00000;
    float power;
    memcpy(&power, &bits, sizeof power);
    return p * power;
}

static void gate(float g[GROUP], const float up[GROUP]) {
    for (int i = 0; i < GROUP; i++) {
        float e = exponential(-fabsf(g[i]));
        g[i] = g[i] * ((g[i] < 0 ? e : 1) / (1 + e)) * up[i];
    }
}

const block_kernels blocks_portable = {quantize, tile, gate};
