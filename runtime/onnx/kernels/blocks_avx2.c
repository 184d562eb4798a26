//go:build cgo && amd64 && (linux || darwin)

#include "blocks.h"

#include <immintrin.h>

static inline TARGET_AVX2 __m256 magnitude(__m256 x) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x); }

TARGET_AVX2 void blocks_avx2_quantize(const form *f, const float *x, const activations *a, size_t row) {
    size_t blocks = blocks_of(f);
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    for (size_t b = 0; b < blocks; b++, x += BLOCK) {
        __m256 v[4], peak;
        for (int i = 0; i < 4; i++) v[i] = _mm256_loadu_ps(x + 8 * i);
        peak = _mm256_max_ps(_mm256_max_ps(magnitude(v[0]), magnitude(v[1])), _mm256_max_ps(magnitude(v[2]), magnitude(v[3])));
        __m128 p = _mm_max_ps(_mm256_castps256_ps128(peak), _mm256_extractf128_ps(peak, 1));
        p = _mm_max_ps(p, _mm_movehl_ps(p, p));
        float top = _mm_cvtss_f32(_mm_max_ss(p, _mm_movehdup_ps(p)));
        float scale = top / 127;
        __m256 inverse = _mm256_set1_ps(top > 1e-30f ? 127 / top : 0);
        __m256i q[4];
        for (int i = 0; i < 4; i++) q[i] = _mm256_cvtps_epi32(_mm256_mul_ps(v[i], inverse));
        __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
        bytes = _mm256_permutevar8x32_epi32(bytes, order);
        _mm256_storeu_si256((__m256i *)(a->q + row * f->columns + b * BLOCK), bytes);
        __m256i s = _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_set1_epi8(1), bytes), _mm256_set1_epi16(1));
        __m128i t = _mm_add_epi32(_mm256_castsi256_si128(s), _mm256_extracti128_si256(s, 1));
        t = _mm_add_epi32(t, _mm_shuffle_epi32(t, 0x4e));
        int32_t total = _mm_cvtsi128_si32(_mm_add_epi32(t, _mm_shuffle_epi32(t, 0xb1)));
        size_t at = row * blocks + b;
        a->scale[at] = scale, a->sum[at] = scale * (float)total, a->total[at] = total;
    }
}

static inline TARGET_AVX2 __m256 numbers(const uint8_t *at, int wide, int i) {
    return wide ? _mm256_loadu_ps((const float *)at + i) : _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(at + 2 * i)));
}

static inline TARGET_AVX2 __m256i four(const int8_t *x) { return _mm256_set1_epi32(*(const int32_t *)x); }

enum { PAIR = 2 }; // rows of activations at once: their sums fit the registers

// whole_tile multiplies with all rows of the group. Sums of products of a half byte with a byte fit 16 bits
// over a whole block: 16 * 15 * 127 < 2^15.
static inline TARGET_AVX2 __attribute__((always_inline)) void whole_tile(const form *f, const uint8_t *group, const activations *a,
        size_t row, const int n, const int bits, const int wide, float out[PAIR][GROUP]) {
    const __m256i low = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1), none = _mm256_setzero_si256();
    const size_t blocks = blocks_of(f), columns = f->columns, step = block_bytes(f), values = GROUP * BLOCK * bits / 8;
    const int8_t *x = a->q + row * columns;
    const float *scale = a->scale + row * blocks, *sum = a->sum + row * blocks;
    const int32_t *total = a->total + row * blocks;
    __m256 v[PAIR][2];
    for (int m = 0; m < n; m++) v[m][0] = v[m][1] = _mm256_setzero_ps();
    for (size_t b = 0; b < blocks; b++, group += step, x += BLOCK) {
        __m256i lower[PAIR][2], upper[PAIR][2];
        for (int m = 0; m < n; m++) lower[m][0] = lower[m][1] = upper[m][0] = upper[m][1] = none;
#pragma GCC unroll 1 // unrolled, the sums leave the registers
        for (int j = 0; j < bits; j++) {
            __m256i y[PAIR], z[PAIR];
            for (int m = 0; m < n; m++) {
                y[m] = four(x + m * columns + 4 * j);
                z[m] = bits == 4 ? four(x + m * columns + 16 + 4 * j) : y[m];
            }
            _mm_prefetch((const char *)group + 64 * j + AHEAD, _MM_HINT_T0);
            for (int h = 0; h < 2; h++) {
                __m256i w = _mm256_loadu_si256((const __m256i *)(group + 64 * j + 32 * h));
                __m256i lo = _mm256_and_si256(w, low), hi = _mm256_and_si256(_mm256_srli_epi16(w, 4), low);
                for (int m = 0; m < n; m++) {
                    lower[m][h] = _mm256_add_epi16(lower[m][h], _mm256_maddubs_epi16(lo, y[m]));
                    if (bits == 4) lower[m][h] = _mm256_add_epi16(lower[m][h], _mm256_maddubs_epi16(hi, z[m]));
                    else upper[m][h] = _mm256_add_epi16(upper[m][h], _mm256_maddubs_epi16(hi, y[m]));
                }
            }
        }
        _mm_prefetch((const char *)group + values + AHEAD, _MM_HINT_T0);
        for (int h = 0; h < 2; h++) {
            __m256 d = numbers(group + values, wide, 8 * h), minimum = bits == 4 ? numbers(group + values, wide, GROUP + 8 * h) : d;
            for (int m = 0; m < n; m++) {
                size_t at = m * blocks + b;
                __m256i s = _mm256_madd_epi16(lower[m][h], ones);
                if (bits == 8) {
                    s = _mm256_add_epi32(s, _mm256_slli_epi32(_mm256_madd_epi16(upper[m][h], ones), 4));
                    s = _mm256_sub_epi32(s, _mm256_set1_epi32(128 * total[at]));
                }
                v[m][h] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(s), _mm256_mul_ps(d, _mm256_set1_ps(scale[at])), v[m][h]);
                if (bits == 4) v[m][h] = _mm256_fmadd_ps(minimum, _mm256_set1_ps(sum[at]), v[m][h]);
            }
        }
    }
    for (int m = 0; m < n; m++)
        for (int h = 0; h < 2; h++) _mm256_storeu_ps(out[m] + 8 * h, v[m][h]);
}

#define FORMS(n)                                                                     \
    do {                                                                             \
        if (f->bits == 4 && f->wide) whole_tile(f, group, a, row, n, 4, 1, out);     \
        else if (f->bits == 4) whole_tile(f, group, a, row, n, 4, 0, out);           \
        else if (f->wide) whole_tile(f, group, a, row, n, 8, 1, out);                \
        else whole_tile(f, group, a, row, n, 8, 0, out);                             \
    } while (0)

static TARGET_AVX2 void tile(const form *f, const uint8_t *group, const activations *a, size_t row, size_t n, float out[TILE][GROUP]) {
    for (; n >= PAIR; n -= PAIR, row += PAIR, out += PAIR) FORMS(2);
    if (n) FORMS(1);
}

// exponential is that of blocks_portable.c.
static inline TARGET_AVX2 __m256 exponential(__m256 x) {
    x = _mm256_max_ps(_mm256_set1_ps(-87), x); // keeps what is not a number
    __m256 n = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m256 r = _mm256_fmadd_ps(n, _mm256_set1_ps(2.12194440e-4f), _mm256_fmadd_ps(n, _mm256_set1_ps(-0.693359375f), x));
    __m256 p = _mm256_set1_ps(1.9875691500e-4f);
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.3981999507e-3f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(8.3334519073e-3f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(4.1665795894e-2f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.6666665459e-1f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(5.0000001201e-1f));
    p = _mm256_add_ps(_mm256_fmadd_ps(p, _mm256_mul_ps(r, r), r), _mm256_set1_ps(1));
    __m256i power = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
    return _mm256_mul_ps(p, _mm256_castsi256_ps(power));
}

TARGET_AVX2 void blocks_avx2_gate(float g[GROUP], const float up[GROUP]) {
    const __m256 one = _mm256_set1_ps(1);
    for (int i = 0; i < GROUP; i += 8) {
        __m256 x = _mm256_loadu_ps(g + i), e = exponential(_mm256_or_ps(x, _mm256_set1_ps(-0.0f)));
        __m256 sigmoid = _mm256_div_ps(_mm256_blendv_ps(one, e, x), _mm256_add_ps(one, e));
        _mm256_storeu_ps(g + i, _mm256_mul_ps(_mm256_mul_ps(x, sigmoid), _mm256_loadu_ps(up + i)));
    }
}

const block_kernels blocks_avx2 = {blocks_avx2_quantize, tile, blocks_avx2_gate};
