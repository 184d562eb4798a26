//go:build cgo && amd64 && (linux || darwin)

#include "blocks.h"

#include <immintrin.h>

static inline TARGET_AVX512 __m512 numbers(const uint8_t *at, int wide, int i) {
    return wide ? _mm512_loadu_ps((const float *)at + i) : _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(at + 2 * i)));
}

static inline TARGET_AVX512 __m512i four(const char *x) { return _mm512_set1_epi32(*(const int32_t *)x); }

static inline TARGET_AVX512 __attribute__((always_inline)) void whole_tile(const form *f, const uint8_t *group, const activations *a,
        size_t row, const int n, const int bits, const int wide, float out[TILE][GROUP]) {
    const __m512i low = bits == 4 ? _mm512_set1_epi8(15) : _mm512_set1_epi16(255);
    const size_t blocks = blocks_of(f), step = block_bytes(f), values = GROUP * BLOCK * bits / 8, width = bits / 4, stride = f->columns * width;
    const char *x = (const char *)a->q + row * stride;
    const float *scale = a->scale + row * blocks, *sum = a->sum + row * blocks;
    const int32_t *shift = a->shift + row * blocks;
    __m512 v[TILE];
    for (int m = 0; m < n; m++) v[m] = _mm512_setzero_ps();
    for (size_t b = 0; b < blocks; b++, group += step, x += BLOCK * width) {
        __m512i s[TILE];
        for (int m = 0; m < n; m++) s[m] = bits == 4 ? _mm512_setzero_si512() : _mm512_set1_epi32(shift[m * blocks + b]);
#pragma GCC unroll 8
        for (int j = 0; j < bits; j++) {
            _mm_prefetch((const char *)group + 64 * j + AHEAD, _MM_HINT_T0);
            __m512i w = _mm512_loadu_si512(group + 64 * j);
            __m512i lo = _mm512_and_si512(w, low), hi = bits == 4 ? _mm512_and_si512(_mm512_srli_epi16(w, 4), low) : _mm512_srli_epi16(w, 8);
            for (int m = 0; m < n; m++) {
                const char *at = x + m * stride + 4 * j * width;
                s[m] = bits == 4 ? _mm512_dpbusd_epi32(s[m], lo, four(at)) : _mm512_dpwssd_epi32(s[m], lo, four(at));
                s[m] = bits == 4 ? _mm512_dpbusd_epi32(s[m], hi, four(at + 16)) : _mm512_dpwssd_epi32(s[m], hi, four(at + 4));
            }
        }
        _mm_prefetch((const char *)group + values + AHEAD, _MM_HINT_T0);
        __m512 d = numbers(group + values, wide, 0);
        for (int m = 0; m < n; m++) {
            size_t at = m * blocks + b;
            v[m] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(s[m]), _mm512_mul_ps(d, _mm512_set1_ps(scale[at])), v[m]);
            if (bits == 4) v[m] = _mm512_fmadd_ps(numbers(group + values, wide, GROUP), _mm512_set1_ps(sum[at]), v[m]);
        }
    }
    for (int m = 0; m < n; m++) _mm512_storeu_ps(out[m], v[m]);
}

#define FORMS(n)                                                              \
    do {                                                                      \
        if (f->bits == 4 && f->wide) whole_tile(f, group, a, row, n, 4, 1, out); \
        else if (f->bits == 4) whole_tile(f, group, a, row, n, 4, 0, out);    \
        else if (f->wide) whole_tile(f, group, a, row, n, 8, 1, out);         \
        else whole_tile(f, group, a, row, n, 8, 0, out);                      \
    } while (0)

static TARGET_AVX512 void tile(const form *f, const uint8_t *group, const activations *a, size_t row, size_t n, float out[TILE][GROUP]) {
    switch (n) {
    case 1: FORMS(1); break;
    case 2: FORMS(2); break;
    case 3: FORMS(3); break;
    default: FORMS(4);
    }
}

const block_kernels blocks_avx512 = {blocks_avx2_quantize, tile, blocks_avx2_gate};
