//go:build cgo && amd64 && (linux || darwin)

#include "blocks.h"

#include <immintrin.h>

static inline TARGET_AVX2 __m256 magnitude(__m256 x) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x); }

// bytes writes 32 whole numbers as activations of 4-bit weights, words as those of 8-bit ones.
static inline TARGET_AVX2 void bytes(const __m256i q[4], int8_t *to) {
    __m256i v = _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
    _mm256_storeu_si256((__m256i *)to, _mm256_permutevar8x32_epi32(v, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)));
}

static inline TARGET_AVX2 void words(const __m256i q[4], int16_t *to) {
    for (int i = 0; i < 4; i += 2) {
        __m256i v = _mm256_permute4x64_epi64(_mm256_packs_epi32(q[i], q[i + 1]), 0xd8);
        v = _mm256_shufflehi_epi16(_mm256_shufflelo_epi16(v, 0xd8), 0xd8);
        _mm256_storeu_si256((__m256i *)(to + 8 * i), v);
    }
}

static TARGET_AVX2 void quantize(const form *f, const float *x, const float *norm, const activations *a, size_t row) {
    size_t blocks = blocks_of(f), at = row * blocks;
    const float most = f->bits == 4 ? MOST4 : MOST8;
    const __m256 unit = _mm256_set1_ps(norm ? unit_of(f, x) : 1);
    for (size_t b = 0; b < blocks; b++, x += BLOCK, at++) {
        __m256 v[4], peak;
        for (int i = 0; i < 4; i++) v[i] = _mm256_loadu_ps(x + 8 * i);
        if (norm)
            for (int i = 0; i < 4; i++) v[i] = _mm256_mul_ps(_mm256_mul_ps(v[i], unit), _mm256_loadu_ps(norm + b * BLOCK + 8 * i));
        peak = _mm256_max_ps(_mm256_max_ps(magnitude(v[0]), magnitude(v[1])), _mm256_max_ps(magnitude(v[2]), magnitude(v[3])));
        __m128 p = _mm_max_ps(_mm256_castps256_ps128(peak), _mm256_extractf128_ps(peak, 1));
        p = _mm_max_ps(p, _mm_movehl_ps(p, p));
        float top = _mm_cvtss_f32(_mm_max_ss(p, _mm_movehdup_ps(p)));
        __m256 inverse = _mm256_set1_ps(top > 1e-30f ? most / top : 0);
        __m256i q[4];
        for (int i = 0; i < 4; i++) q[i] = _mm256_cvtps_epi32(_mm256_mul_ps(v[i], inverse));
        if (f->bits == 4) bytes(q, (int8_t *)a->q + at * BLOCK);
        else words(q, (int16_t *)a->q + at * BLOCK);
        __m256i s = _mm256_add_epi32(_mm256_add_epi32(q[0], q[1]), _mm256_add_epi32(q[2], q[3]));
        __m128i t = _mm_add_epi32(_mm256_castsi256_si128(s), _mm256_extracti128_si256(s, 1));
        t = _mm_add_epi32(t, _mm_shuffle_epi32(t, 0x4e));
        finish(a, at, top / most, _mm_cvtsi128_si32(_mm_add_epi32(t, _mm_shuffle_epi32(t, 0xb1))));
    }
}

static inline TARGET_AVX2 __m256 numbers(const uint8_t *at, int wide, int i) {
    return wide ? _mm256_loadu_ps((const float *)at + i) : _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(at + 2 * i)));
}

static inline TARGET_AVX2 __m256i four(const char *x) { return _mm256_set1_epi32(*(const int32_t *)x); }

// IN_ORDER has a value computed where it stands. Without it the compiler computes many at once, and those that
// are used most leave the registers.
#define IN_ORDER(value) __asm__("" : "+x"(value))

// add adds products of weights, none of them negative, with activations. With half bytes the sums fit 16 bits
// over a whole block: 16 * 15 * 127 < 2^15.
static inline TARGET_AVX2 __m256i add(const int bits, __m256i sum, __m256i weights, __m256i x) {
    sum = bits == 4 ? _mm256_add_epi16(sum, _mm256_maddubs_epi16(weights, x)) : _mm256_add_epi32(sum, _mm256_madd_epi16(weights, x));
    IN_ORDER(sum);
    return sum;
}

// chunk adds the products with chunk j of a block, of all rows of the group: what of a byte is in lo meets
// the activations at y, what is in hi those at z.
static inline TARGET_AVX2 __attribute__((always_inline)) void chunk(const uint8_t *weights, const char *x, size_t stride,
        const int y, const int z, const int n, const int bits, __m256i sums[TILE][2]) {
    const __m256i low = bits == 4 ? _mm256_set1_epi8(15) : _mm256_set1_epi16(255);
    __m256i lo[2], hi[2];
    _mm_prefetch((const char *)weights + AHEAD, _MM_HINT_T0);
    for (int h = 0; h < 2; h++) {
        __m256i w = _mm256_loadu_si256((const __m256i *)(weights + 32 * h));
        lo[h] = _mm256_and_si256(w, low);
        hi[h] = bits == 4 ? _mm256_and_si256(_mm256_srli_epi16(w, 4), low) : _mm256_srli_epi16(w, 8);
        IN_ORDER(lo[h]);
        IN_ORDER(hi[h]);
    }
    for (int m = 0; m < n; m++) {
        __m256i v = four(x + m * stride + y);
        for (int h = 0; h < 2; h++) sums[m][h] = add(bits, sums[m][h], lo[h], v);
        v = four(x + m * stride + z);
        for (int h = 0; h < 2; h++) sums[m][h] = add(bits, sums[m][h], hi[h], v);
    }
}

// whole_tile multiplies with all rows of the group.
static inline TARGET_AVX2 __attribute__((always_inline)) void whole_tile(const form *f, const uint8_t *group, const activations *a,
        size_t row, const int n, const int bits, const int wide, float out[TILE][GROUP]) {
    const size_t blocks = blocks_of(f), step = block_bytes(f), values = GROUP * BLOCK * bits / 8, width = bits / 4, stride = f->columns * width;
    const char *x = (const char *)a->q + row * stride;
    const float *scale = a->scale + row * blocks, *sum = a->sum + row * blocks;
    const int32_t *shift = a->shift + row * blocks;
    __m256 total[TILE][2]; // not out: the compiler would write that after each block
    for (int m = 0; m < n; m++) total[m][0] = total[m][1] = _mm256_setzero_ps();
    for (size_t b = 0; b < blocks; b++, group += step, x += BLOCK * width) {
        __m256i s[TILE][2];
        for (int m = 0; m < n; m++) s[m][0] = s[m][1] = bits == 4 ? _mm256_setzero_si256() : _mm256_set1_epi32(shift[m * blocks + b]);
#pragma GCC unroll 4
        for (int j = 0; j < bits; j++)
            chunk(group + 64 * j, x, stride, 4 * j * width, bits == 4 ? 16 + 4 * j : 8 * j + 4, n, bits, s);
        _mm_prefetch((const char *)group + values + AHEAD, _MM_HINT_T0);
        for (int h = 0; h < 2; h++) {
            __m256 d = numbers(group + values, wide, 8 * h), minimum = bits == 4 ? numbers(group + values, wide, GROUP + 8 * h) : d;
            for (int m = 0; m < n; m++) {
                size_t at = m * blocks + b;
                __m256 v = _mm256_cvtepi32_ps(bits == 4 ? _mm256_madd_epi16(s[m][h], _mm256_set1_epi16(1)) : s[m][h]);
                v = _mm256_fmadd_ps(v, _mm256_mul_ps(d, _mm256_set1_ps(scale[at])), total[m][h]);
                total[m][h] = bits == 4 ? _mm256_fmadd_ps(minimum, _mm256_set1_ps(sum[at]), v) : v;
            }
        }
    }
    for (int m = 0; m < n; m++)
        for (int h = 0; h < 2; h++) _mm256_storeu_ps(out[m] + 8 * h, total[m][h]);
}

#define FORMS(n)                                                                     \
    do {                                                                             \
        if (f->bits == 4 && f->wide) whole_tile(f, group, a, row, n, 4, 1, out);     \
        else if (f->bits == 4) whole_tile(f, group, a, row, n, 4, 0, out);           \
        else if (f->wide) whole_tile(f, group, a, row, n, 8, 1, out);                \
        else whole_tile(f, group, a, row, n, 8, 0, out);                             \
    } while (0)

static TARGET_AVX2 void tile(const form *f, const uint8_t *group, const activations *a, size_t row, size_t n, float out[TILE][GROUP]) {
    switch (n) {
    case 1: FORMS(1); break;
    case 2: FORMS(2); break;
    case 3: FORMS(3); break;
    default: FORMS(4);
    }
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

static TARGET_AVX2 void gate(float g[GROUP], const float up[GROUP]) {
    const __m256 one = _mm256_set1_ps(1);
    for (int i = 0; i < GROUP; i += 8) {
        __m256 x = _mm256_loadu_ps(g + i), e = exponential(_mm256_or_ps(x, _mm256_set1_ps(-0.0f)));
        __m256 sigmoid = _mm256_div_ps(_mm256_blendv_ps(one, e, x), _mm256_add_ps(one, e));
        _mm256_storeu_ps(g + i, _mm256_mul_ps(_mm256_mul_ps(x, sigmoid), _mm256_loadu_ps(up + i)));
    }
}

const block_kernels blocks_avx2 = {quantize, tile, gate};
