//go:build cgo && amd64 && (linux || darwin)

#include "blocks.h"

#include <immintrin.h>

static TARGET_AVX512 void quantize(const form *f, const float *x, const float *norm, const activations *a, size_t row) {
    size_t blocks = blocks_of(f), at = row * blocks;
    const float most = f->bits == 4 ? MOST4 : MOST8;
    const __m512 unit = _mm512_set1_ps(norm ? unit_of(f, x) : 1);
    for (size_t b = 0; b < blocks; b++, x += BLOCK, at++) {
        __m512 v[2];
        __m512i q[2];
        for (int i = 0; i < 2; i++) v[i] = _mm512_loadu_ps(x + 16 * i);
        if (norm)
            for (int i = 0; i < 2; i++) v[i] = _mm512_mul_ps(_mm512_mul_ps(v[i], unit), _mm512_loadu_ps(norm + b * BLOCK + 16 * i));
        float top = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(v[0]), _mm512_abs_ps(v[1])));
        __m512 inverse = _mm512_set1_ps(top > 1e-30f ? most / top : 0);
        for (int i = 0; i < 2; i++) {
            q[i] = _mm512_cvtps_epi32(_mm512_mul_ps(v[i], inverse));
            if (f->bits == 4) {
                _mm_storeu_si128((__m128i *)((int8_t *)a->q + at * BLOCK + 16 * i), _mm512_cvtsepi32_epi8(q[i]));
                continue;
            }
            __m256i w = _mm512_cvtsepi32_epi16(q[i]);
            _mm256_storeu_si256((__m256i *)((int16_t *)a->q + at * BLOCK + 16 * i), _mm256_shufflehi_epi16(_mm256_shufflelo_epi16(w, 0xd8), 0xd8));
        }
        finish(a, at, top / most, _mm512_reduce_add_epi32(_mm512_add_epi32(q[0], q[1])));
    }
}

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

// exponential is that of blocks_portable.c.
static inline TARGET_AVX512 __m512 exponential(__m512 x) {
    x = _mm512_max_ps(_mm512_set1_ps(-87), x); // keeps what is not a number
    __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 r = _mm512_fmadd_ps(n, _mm512_set1_ps(2.12194440e-4f), _mm512_fmadd_ps(n, _mm512_set1_ps(-0.693359375f), x));
    __m512 p = _mm512_set1_ps(1.9875691500e-4f);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.3981999507e-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(8.3334519073e-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.1665795894e-2f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.6666665459e-1f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.0000001201e-1f));
    p = _mm512_add_ps(_mm512_fmadd_ps(p, _mm512_mul_ps(r, r), r), _mm512_set1_ps(1));
    __m512i power = _mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127)), 23);
    return _mm512_mul_ps(p, _mm512_castsi512_ps(power));
}

static TARGET_AVX512 void gate(float g[GROUP], const float up[GROUP]) {
    const __m512 one = _mm512_set1_ps(1), x = _mm512_loadu_ps(g), e = exponential(_mm512_or_ps(x, _mm512_set1_ps(-0.0f)));
    __m512 sigmoid = _mm512_div_ps(_mm512_mask_blend_ps(_mm512_movepi32_mask(_mm512_castps_si512(x)), one, e), _mm512_add_ps(one, e));
    _mm512_storeu_ps(g, _mm512_mul_ps(_mm512_mul_ps(x, sigmoid), _mm512_loadu_ps(up)));
}

const block_kernels blocks_avx512 = {quantize, tile, gate};
