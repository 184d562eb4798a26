//go:build cgo && amd64 && linux

// Products of bfloat16 by the processor's matrix instructions (AMX). A tile of a block's weights, 16 rows by 32 columns,
// is multiplied with tiles of 32 columns by 16 rows of activations, whose sums stay in tiles until the last block.

#include "blocks.h"

#if __has_include(<amxtileintrin.h>) || defined(EMULATED)

#include "amx.h"

#define INLINE static inline TARGET_AMX __attribute__((always_inline))

// Tiles, of whose numbers the compiler makes names: sums of up to six chunks of rows, weights, activations.
#define WEIGHTS 6
#define ROWS 7

// turn exchanges rows and columns of 16 vectors of 16.
INLINE void turn(__m512 v[16]) {
    __m512 w[16];
    for (int i = 0; i < 16; i += 4) {
        __m512d a = _mm512_castps_pd(_mm512_unpacklo_ps(v[i], v[i + 1])), b = _mm512_castps_pd(_mm512_unpackhi_ps(v[i], v[i + 1]));
        __m512d c = _mm512_castps_pd(_mm512_unpacklo_ps(v[i + 2], v[i + 3])), d = _mm512_castps_pd(_mm512_unpackhi_ps(v[i + 2], v[i + 3]));
        w[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, c)), w[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, c));
        w[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(b, d)), w[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(b, d));
    }
    for (int i = 0; i < 4; i++) { // quarters of w[i], w[i + 4], w[i + 8] and w[i + 12]
        __m512 a = _mm512_shuffle_f32x4(w[i], w[i + 4], 0x88), b = _mm512_shuffle_f32x4(w[i], w[i + 4], 0xdd);
        __m512 c = _mm512_shuffle_f32x4(w[i + 8], w[i + 12], 0x88), d = _mm512_shuffle_f32x4(w[i + 8], w[i + 12], 0xdd);
        v[i] = _mm512_shuffle_f32x4(a, c, 0x88), v[i + 8] = _mm512_shuffle_f32x4(a, c, 0xdd);
        v[i + 4] = _mm512_shuffle_f32x4(b, d, 0x88), v[i + 12] = _mm512_shuffle_f32x4(b, d, 0xdd);
    }
}

static TARGET_AMX void shorten_amx(const form *f, const float *x, const float *norm, size_t n, uint16_t *to) {
    float unit[CHUNK];
    for (size_t m = 0; m < n; m++) unit[m] = norm ? unit_of(f, x + m * f->columns) : 1;
    for (size_t k = 0; k < (size_t)f->columns; k += BLOCK, to += BLOCK * CHUNK) {
        __m512 pairs[CHUNK];
        for (size_t m = 0; m < CHUNK; m++) {
            const float *at = x + m * f->columns + k;
            pairs[m] = _mm512_setzero_ps();
            if (m >= n) continue;
            __m512 low = _mm512_loadu_ps(at), high = _mm512_loadu_ps(at + 16);
            if (norm) {
                low = _mm512_mul_ps(_mm512_mul_ps(low, _mm512_set1_ps(unit[m])), _mm512_loadu_ps(norm + k));
                high = _mm512_mul_ps(_mm512_mul_ps(high, _mm512_set1_ps(unit[m])), _mm512_loadu_ps(norm + k + 16));
            }
            pairs[m] = (__m512)briefly(low, high);
        }
        turn(pairs);
        for (int i = 0; i < 16; i++) _mm512_storeu_ps((float *)to + 16 * i, pairs[i]);
    }
}

// numbers are LIFT times 16 scales or minima.
INLINE __m512 numbers(const uint8_t *at, int wide, int i) {
    return _mm512_mul_ps(_mm512_set1_ps(LIFT), wide ? _mm512_loadu_ps((const float *)at + i) : _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(at + 2 * i))));
}

// unpack makes bfloat16 of a block. A row's 4 bits choose of 16 numbers that are made for it; each stands twice in the
// table, so that the lowest bit of its place does not matter.
INLINE void unpack(const uint8_t *block, const int bits, const int wide, uint16_t to[GROUP][BLOCK]) {
    const uint8_t *at = block + GROUP * BLOCK * bits / 8;
    float scale[GROUP] __attribute__((aligned(64))), minimum[GROUP] __attribute__((aligned(64)));
    // a number is spread by loading it: the compiler would do it in registers, which is slower
    if (bits == 8) {
        const __m512i uppers = _mm512_set_epi16(63, 61, 59, 57, 55, 53, 51, 49, 47, 45, 43, 41, 39, 37, 35, 33, 31, 29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1);
        _mm512_store_ps(scale, numbers(at, wide, 0));
        __asm__("" : "+m"(scale));
#pragma GCC unroll 16
        for (int r = 0; r < GROUP; r++, block += BLOCK) {
            const __m512 low = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)block)));
            const __m512 high = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(block + BLOCK / 2))));
            const __m512 d = _mm512_set1_ps(scale[r]);
            _mm512_storeu_si512(to[r], _mm512_permutex2var_epi16((__m512i)_mm512_mul_ps(low, d), uppers, (__m512i)_mm512_mul_ps(high, d)));
        }
        return;
    }
    const __m512 digits = _mm512_set_ps(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const __m512i upper_twice = _mm512_broadcast_i32x4(_mm_set_epi8(15, 14, 15, 14, 11, 10, 11, 10, 7, 6, 7, 6, 3, 2, 3, 2));
    _mm512_store_ps(scale, numbers(at, wide, 0)), _mm512_store_ps(minimum, numbers(at, wide, GROUP));
    __asm__("" : "+m"(scale), "+m"(minimum));
#pragma GCC unroll 4
    for (int j = 0; j < GROUP / 4; j++) {
        const __m512i w = _mm512_loadu_si512(block + 64 * j);
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            const __m512 values = _mm512_fmadd_ps(digits, _mm512_set1_ps(scale[4 * j + i]), _mm512_set1_ps(minimum[4 * j + i]));
            const __m512i places = i ? _mm512_srli_epi16(w, 4 * i - 1) : _mm512_slli_epi16(w, 1);
            _mm512_storeu_si512(to[4 * j + i], _mm512_permutexvar_epi16(places, _mm512_shuffle_epi8((__m512i)values, upper_twice)));
        }
    }
}

// each_chunk does something with the number of each chunk's tile of sums.
#define each_chunk(chunks, what) what(chunks, 0) what(chunks, 1) what(chunks, 2) what(chunks, 3) what(chunks, 4) what(chunks, 5)
#define clear(chunks, c) \
    if (chunks > c) _tile_zero(c);
#define add(chunks, c)                                          \
    if (chunks > c) {                                           \
        _tile_loadd(ROWS, x + c * CHUNK * columns + b * BLOCK * CHUNK, 64); \
        _tile_dpbf16ps(c, WEIGHTS, ROWS);                       \
    }
#define keep(chunks, c) \
    if (chunks > c) _tile_stored(c, sums[c], 64);

INLINE void product(const form *f, const uint8_t *group, const uint16_t *x, size_t n, const int chunks, const int bits, const int wide, float *out, size_t stride) {
    const size_t blocks = blocks_of(f), step = block_bytes(f), columns = f->columns;
    uint16_t weights[2][GROUP][BLOCK] __attribute__((aligned(64))); // of a block and the next
    float sums[MANY / CHUNK][GROUP][CHUNK] __attribute__((aligned(64)));
    each_chunk(chunks, clear)
    unpack(group, bits, wide, weights[0]);
    for (size_t b = 0; b < blocks; b++, group += step) {
        for (size_t i = 0; i < step; i += 64) _mm_prefetch((const char *)group + blocks * step + i, _MM_HINT_T0); // the next group
        if (b + 1 < blocks) unpack(group + step, bits, wide, weights[(b + 1) % 2]);
        MEMORY_USED;
        _tile_loadd(WEIGHTS, weights[b % 2], 64);
        each_chunk(chunks, add)
    }
    each_chunk(chunks, keep)
    MEMORY_USED;
    for (int c = 0; c < chunks; c++) {
        __m512 rows[CHUNK];
        for (int i = 0; i < GROUP; i++) rows[i] = _mm512_load_ps(sums[c][i]);
        turn(rows);
        for (size_t m = 0; m < CHUNK && c * CHUNK + m < n; m++) _mm512_storeu_ps(out + (c * CHUNK + m) * stride, rows[m]);
    }
}

INLINE void product_of(const form *f, const uint8_t *group, const uint16_t *x, size_t n, const int bits, const int wide, float *out, size_t stride) {
    switch ((n + CHUNK - 1) / CHUNK) {
    case 1: product(f, group, x, n, 1, bits, wide, out, stride); break;
    case 2: product(f, group, x, n, 2, bits, wide, out, stride); break;
    case 3: product(f, group, x, n, 3, bits, wide, out, stride); break;
    case 4: product(f, group, x, n, 4, bits, wide, out, stride); break;
    case 5: product(f, group, x, n, 5, bits, wide, out, stride); break;
    default: product(f, group, x, n, 6, bits, wide, out, stride);
    }
}

static TARGET_AMX void multiply_amx(const form *f, const uint8_t *group, const uint16_t *x, size_t n, float *out, size_t stride) {
    if (f->bits == 8 && f->wide) product_of(f, group, x, n, 8, 1, out, stride);
    else if (f->bits == 8) product_of(f, group, x, n, 8, 0, out, stride);
    else if (f->wide) product_of(f, group, x, n, 4, 1, out, stride);
    else product_of(f, group, x, n, 4, 0, out, stride);
}

const bfloat_kernels bfloats_amx = {begin_tiles, end_tiles, shorten_amx, multiply_amx};

// same tells whether the kernels give the bits of the definition, for rows and weights made of a simple sequence.
static int same(int bits, int wide) {
    enum { N = MANY - 3, COLUMNS = 3 * BLOCK };
    const form f = {.rows = GROUP, .columns = COLUMNS, .bits = bits, .wide = wide, .bfloat16 = 1};
    static uint8_t group[GROUP * COLUMNS * 2];
    static uint16_t one[MANY * COLUMNS], other[MANY * COLUMNS];
    static float x[N * COLUMNS], got[MANY][GROUP], want[MANY][GROUP];
    uint32_t state = 1;
    for (size_t i = 0; i < sizeof group; i++) group[i] = (state = state * 1664525 + 1013904223) >> 24;
    for (size_t b = 0; b < COLUMNS / BLOCK; b++) // scales and minima that are finite: 1.0 to 2.0
        for (int i = 0; i < (bits == 4 ? 2 : 1) * GROUP; i++) {
            uint8_t *at = group + b * block_bytes(&f) + GROUP * BLOCK * bits / 8;
            const float v = 1 + (float)i / 32;
            const uint16_t h = 0x3c00 + 32 * i;
            if (wide) memcpy(at + 4 * i, &v, 4);
            else memcpy(at + 2 * i, &h, 2);
        }
    for (size_t i = 0; i < N * COLUMNS; i++) x[i] = (float)((int32_t)(state = state * 1664525 + 1013904223) >> 8) / 1e6f;
    for (size_t m = 0; m < N; m += CHUNK) {
        const size_t n = N - m < CHUNK ? N - m : CHUNK;
        shorten_amx(&f, x + m * COLUMNS, x, n, one + m * COLUMNS);
        bfloats_portable.shorten(&f, x + m * COLUMNS, x, n, other + m * COLUMNS);
    }
    begin_tiles();
    multiply_amx(&f, group, one, N, got[0], GROUP);
    end_tiles();
    bfloats_portable.multiply(&f, group, other, N, want[0], GROUP);
    return !memcmp(one, other, sizeof one) && !memcmp(got, want, N * sizeof *got);
}

#ifndef EMULATED
int pelton_amx(void) {
    return same(4, 0) && same(4, 1) && same(8, 0) && same(8, 1);
}
#endif

#else

const bfloat_kernels bfloats_amx = {0};

int pelton_amx(void) { return 0; }

#endif
