//go:build cgo && amd64 && linux

// Products of weights with many rows of activations by the processor's matrix instructions (AMX). A tile of 16 rows of
// activations times a block of 16 rows of weights gives the block's whole numbers: of words, those of their high bytes
// and those of their low ones. Scales and minima are added as the other levels do it, in the same order, so the bits
// are the same.

#include "blocks.h"

#if __has_include(<amxtileintrin.h>) || defined(EMULATED)

#include <string.h>

#ifdef EMULATED
#define TARGET_AMX
#else
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#define TARGET_AMX __attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,amx-tile,amx-int8")))
#endif

// Tiles: of sums, of one block and the next, so that one's are added while the other's are computed; of activations;
// of weights. The compiler makes names of registers of them.
#define SUMS 0
#define NEXT_SUMS 1
#define LOW_SUMS 2
#define NEXT_LOW_SUMS 3
#define ROWS_TILE 4
#define LOW_TILE 5
#define WEIGHTS_TILE 6

enum { UNPACKED = GROUP * BLOCK }; // bytes of a block

static TARGET_AMX void begin(void) {
    static const struct {
        uint8_t palette, start, zero[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } shapes = {.palette = 1, .bytes = {64, 64, 64, 64, BLOCK, BLOCK, 64}, .rows = {MANY, MANY, MANY, MANY, MANY, MANY, BLOCK / 4}};
    _Static_assert(sizeof shapes == 64, "a configuration of tiles has 64 bytes");
#ifdef EMULATED
    _tile_loadconfig(&shapes);
#else
    __asm__ volatile("ldtilecfg %0" ::"m"(shapes)); // GCC 12's intrinsic lets the compiler leave most of it unwritten
#endif
}

static TARGET_AMX void end(void) { _tile_release(); }

// unpack writes a group as signed bytes: of each block four columns after the other, of 16 rows each.
static TARGET_AMX void unpack(const form *f, const uint8_t *group, uint8_t *to) {
    const __m512i low = _mm512_set1_epi8(15), middle = _mm512_set1_epi8(-128);
    const size_t step = block_bytes(f);
    for (size_t b = blocks_of(f); b; b--, group += step, to += UNPACKED)
        for (int j = 0; j < f->bits; j++) {
            __m512i w = _mm512_loadu_si512(group + 64 * j);
            if (f->bits == 8) {
                _mm512_storeu_si512(to + 64 * j, _mm512_xor_si512(w, middle));
                continue;
            }
            _mm512_storeu_si512(to + 64 * j, _mm512_and_si512(w, low));
            _mm512_storeu_si512(to + UNPACKED / 2 + 64 * j, _mm512_and_si512(_mm512_srli_epi16(w, 4), low));
        }
}

static inline TARGET_AMX __m512 numbers(const uint8_t *at, int wide, int i) {
    return wide ? _mm512_loadu_ps((const float *)at + i) : _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(at + 2 * i)));
}

// sum_block computes the whole numbers of a block. The compiler does not know that loads of tiles read memory.
#define sum_block(tile, low_tile, bits, x, columns, weights, to)               \
    do {                                                                      \
        const size_t stride = columns * (bits / 4);                           \
        __asm__ volatile("" ::: "memory");                                    \
        _tile_loadd(WEIGHTS_TILE, weights, 64);                               \
        _tile_zero(tile);                                                     \
        _tile_loadd(ROWS_TILE, x, stride);                                    \
        _tile_dpbssd(tile, ROWS_TILE, WEIGHTS_TILE);                          \
        _tile_stored(tile, to[0], 64);                                        \
        if (bits == 4) break;                                                 \
        _tile_zero(low_tile);                                                 \
        _tile_loadd(LOW_TILE, x + columns, stride);                           \
        _tile_dpbusd(low_tile, LOW_TILE, WEIGHTS_TILE);                       \
        _tile_stored(low_tile, to[1], 64);                                    \
    } while (0)

static inline TARGET_AMX __attribute__((always_inline)) void whole(const form *f, const uint8_t *group, const uint8_t *unpacked, const activations *a,
        size_t row, const size_t n, const int bits, const int wide, float out[MANY][GROUP]) {
    const size_t blocks = blocks_of(f), step = block_bytes(f), values = GROUP * BLOCK * bits / 8, columns = f->columns;
    const int8_t *x = bits == 4 ? (const int8_t *)a->q + row * columns : a->halves + row * 2 * columns;
    int32_t sums[2][2][MANY][GROUP] __attribute__((aligned(64)));
    __m512 v[MANY];
#pragma GCC unroll 16
    for (size_t m = 0; m < n; m++) v[m] = _mm512_setzero_ps();
    sum_block(SUMS, LOW_SUMS, bits, x, columns, unpacked, sums[0]);
    for (size_t b = 0; b < blocks; b++, group += step) {
        if (b + 1 < blocks) {
            const int8_t *next = x + (b + 1) * BLOCK;
            const uint8_t *weights = unpacked + (b + 1) * UNPACKED;
            if (b % 2) sum_block(SUMS, LOW_SUMS, bits, next, columns, weights, sums[0]);
            else sum_block(NEXT_SUMS, NEXT_LOW_SUMS, bits, next, columns, weights, sums[1]);
        }
        const char *ahead = (const char *)group + blocks * step * (f->gated ? 2 : 1); // the next group: unpacking it at once would wait
        for (int j = 0; j <= bits; j++) _mm_prefetch(ahead + 64 * j, _MM_HINT_T1);
        __m512 d = numbers(group + values, wide, 0);
        const float *scale = lanes_of(f, a, row / MANY, b), *sum = scale + MANY;
#pragma GCC unroll 16
        for (size_t m = 0; m < n; m++) {
            __m512i s = _mm512_load_si512(sums[b % 2][0][m]);
            if (bits == 8) s = _mm512_add_epi32(_mm512_slli_epi32(s, 8), _mm512_load_si512(sums[b % 2][1][m]));
            v[m] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(s), _mm512_mul_ps(d, _mm512_set1_ps(scale[m])), v[m]);
            if (bits == 4) v[m] = _mm512_fmadd_ps(numbers(group + values, wide, GROUP), _mm512_set1_ps(sum[m]), v[m]);
        }
    }
#pragma GCC unroll 16
    for (size_t m = 0; m < n; m++) _mm512_storeu_ps(out[m], v[m]);
}

static TARGET_AMX void many(const form *f, const uint8_t *group, const uint8_t *unpacked, const activations *a, size_t row, size_t n, float out[MANY][GROUP]) {
    if (f->bits == 8 && n == MANY && f->wide) whole(f, group, unpacked, a, row, MANY, 8, 1, out);
    else if (f->bits == 8 && n == MANY) whole(f, group, unpacked, a, row, MANY, 8, 0, out);
    else if (f->bits == 8) whole(f, group, unpacked, a, row, n, 8, f->wide, out);
    else if (n == MANY && f->wide) whole(f, group, unpacked, a, row, MANY, 4, 1, out);
    else if (n == MANY) whole(f, group, unpacked, a, row, MANY, 4, 0, out);
    else whole(f, group, unpacked, a, row, n, 4, f->wide, out);
}

const many_kernels many_amx = {begin, end, unpack, many};

// same tells whether the kernel gives the bits of the definition, for rows and weights made of a simple sequence.
static int same(int bits, int wide) {
    enum { ROWS = MANY + 3, COLUMNS = 3 * BLOCK };
    const form f = {.rows = GROUP, .columns = COLUMNS, .bits = bits, .wide = wide};
    static uint8_t group[GROUP * COLUMNS * 2], unpacked[COLUMNS / BLOCK * UNPACKED];
    static int16_t q[(ROWS + MANY) * COLUMNS];
    static int8_t halves[2 * (ROWS + MANY) * COLUMNS];
    static float x[COLUMNS], scale[ROWS * 3], sum[ROWS * 3], lanes[2 * 2 * MANY * 3], got[MANY][GROUP], want[TILE][GROUP];
    static int32_t shift[ROWS * 3];
    const activations a = {.q = q, .scale = scale, .sum = sum, .shift = shift, .lanes = lanes, .halves = halves};
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
    for (size_t row = 0; row < ROWS; row++) {
        for (size_t i = 0; i < COLUMNS; i++) x[i] = (float)((int32_t)(state = state * 1664525 + 1013904223) >> 8) / 1e6f;
        blocks_portable.quantize(&f, x, NULL, &a, row);
        spread(&f, &a, row);
    }
    begin();
    unpack(&f, group, unpacked);
    int equal = 1;
    for (size_t row = 0; row < ROWS; row += MANY) {
        const size_t n = ROWS - row < MANY ? ROWS - row : MANY;
        many(&f, group, unpacked, &a, row, n, got);
        for (size_t m = 0; m < n; m++) {
            blocks_portable.tile(&f, group, &a, row + m, 1, want);
            equal &= !memcmp(got[m], want[0], sizeof want[0]);
        }
    }
    end();
    return equal;
}

#ifndef EMULATED
int pelton_amx(void) {
    enum { REQUEST = 0x1023, TILES = 18 }; // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    return !syscall(SYS_arch_prctl, REQUEST, TILES) && same(4, 0) && same(4, 1) && same(8, 0) && same(8, 1);
}
#endif

#else

const many_kernels many_amx = {0};

int pelton_amx(void) { return 0; }

#endif
