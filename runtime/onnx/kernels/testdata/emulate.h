// The instructions that the kernels for AMX use, written out for any processor.
#define EMULATED

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

// Registers of 64 bytes, and what they may hold.
#define REGISTER __attribute__((vector_size(64), may_alias))
typedef float __m512 REGISTER;
typedef double __m512d REGISTER;
typedef long long __m512i REGISTER;
typedef uint32_t dwords REGISTER;
typedef uint16_t words REGISTER;
typedef uint8_t bytes REGISTER;
typedef struct {
    uint8_t b[32];
} __m256i;
typedef struct {
    uint8_t b[16];
} __m128i;

#define each(as, n, value)                          \
    as r;                                           \
    for (int i = 0; i < n; i++) r[i] = (value);     \
    return r
#define each_of_512i(as, n, value)                  \
    as r;                                           \
    for (int i = 0; i < n; i++) r[i] = (value);     \
    return (__m512i)r

static __m512i _mm512_loadu_si512(const void *at) {
    __m512i r;
    memcpy(&r, at, sizeof r);
    return r;
}

static void aligned(const void *at) {
    if ((uintptr_t)at % 64) abort(); // so would the processor
}

#define _MM_HINT_T0 0
static void _mm_prefetch(const void *at, int hint) {}

static __m512 _mm512_loadu_ps(const float *at) { return (__m512)_mm512_loadu_si512(at); }

static __m512 _mm512_load_ps(const float *at) {
    aligned(at);
    return (__m512)_mm512_loadu_si512(at);
}

static void _mm512_storeu_si512(void *at, __m512i v) { memcpy(at, &v, sizeof v); }
static void _mm512_storeu_ps(float *at, __m512 v) { memcpy(at, &v, sizeof v); }

static void _mm512_store_ps(float *at, __m512 v) {
    aligned(at);
    memcpy(at, &v, sizeof v);
}

static __m512 _mm512_setzero_ps(void) { return (__m512){0}; }
static __m512 _mm512_set1_ps(float v) { each(__m512, 16, v); }

static __m512 _mm512_set_ps(float a, float b, float c, float d, float e, float f, float g, float h, float i, float j, float k, float l, float m, float n, float o, float p) {
    return (__m512){p, o, n, m, l, k, j, i, h, g, f, e, d, c, b, a};
}

// The last number is that of the lowest word.
#define _mm512_set_epi16(...) reversed_words((const uint16_t[32]){__VA_ARGS__})
static __m512i reversed_words(const uint16_t v[32]) { each_of_512i(words, 32, v[31 - i]); }

#define _mm_set_epi8(...) reversed_bytes((const uint8_t[16]){__VA_ARGS__})
static __m128i reversed_bytes(const uint8_t v[16]) {
    __m128i r;
    for (int i = 0; i < 16; i++) r.b[i] = v[15 - i];
    return r;
}

static __m512i _mm512_broadcast_i32x4(__m128i v) { each_of_512i(bytes, 64, v.b[i % 16]); }

static __m512 _mm512_mul_ps(__m512 a, __m512 b) { each(__m512, 16, a[i] * b[i]); }
static __m512 _mm512_fmadd_ps(__m512 a, __m512 b, __m512 c) { each(__m512, 16, fmaf(a[i], b[i], c[i])); }
static __m512 _mm512_max_ps(__m512 a, __m512 b) { each(__m512, 16, a[i] > b[i] ? a[i] : b[i]); }
static __m512 _mm512_abs_ps(__m512 a) { each(__m512, 16, fabsf(a[i])); }

#define _CMP_NLT_UQ 0
static unsigned _mm512_cmp_ps_mask(__m512 a, __m512 b, int not_less) {
    unsigned mask = 0;
    for (int i = 0; i < 16; i++) mask |= !(a[i] < b[i]) << i;
    return mask;
}

static __m512 _mm512_maskz_mov_ps(unsigned mask, __m512 a) { each(__m512, 16, mask >> i & 1 ? a[i] : 0); }

static __m512i _mm512_srli_epi16(__m512i a, int by) { each_of_512i(words, 32, ((words)a)[i] >> by); }
static __m512i _mm512_slli_epi16(__m512i a, int by) { each_of_512i(words, 32, ((words)a)[i] << by); }
static __m512i _mm512_permutexvar_epi16(__m512i places, __m512i a) { each_of_512i(words, 32, ((words)a)[((words)places)[i] % 32]); }
static __m512i _mm512_permutex2var_epi16(__m512i a, __m512i places, __m512i b) { each_of_512i(words, 32, ((words)(((words)places)[i] % 64 < 32 ? a : b))[((words)places)[i] % 32]); }
static __m512i _mm512_shuffle_epi8(__m512i a, __m512i places) { each_of_512i(bytes, 64, ((bytes)a)[i / 16 * 16 + ((bytes)places)[i] % 16]); }

static __m512 _mm512_unpacklo_ps(__m512 a, __m512 b) { each(__m512, 16, (i % 2 ? b : a)[i / 4 * 4 + i % 4 / 2]); }
static __m512 _mm512_unpackhi_ps(__m512 a, __m512 b) { each(__m512, 16, (i % 2 ? b : a)[i / 4 * 4 + 2 + i % 4 / 2]); }
static __m512d _mm512_unpacklo_pd(__m512d a, __m512d b) { each(__m512d, 8, (i % 2 ? b : a)[i / 2 * 2]); }
static __m512d _mm512_unpackhi_pd(__m512d a, __m512d b) { each(__m512d, 8, (i % 2 ? b : a)[i / 2 * 2 + 1]); }
static __m512d _mm512_castps_pd(__m512 a) { return (__m512d)a; }
static __m512 _mm512_castpd_ps(__m512d a) { return (__m512)a; }

static __m512 _mm512_shuffle_f32x4(__m512 a, __m512 b, int places) { each(__m512, 16, (i < 8 ? a : b)[4 * (places >> i / 4 * 2 & 3) + i % 4]); }

static __m512 _mm512_cvtepi32_ps(__m512i v) { each(__m512, 16, (float)(int32_t)((dwords)v)[i]); }
static __m512i _mm512_cvtepi8_epi32(__m128i v) { each_of_512i(dwords, 16, (uint32_t)(int8_t)v.b[i]); }

static __m512i _mm512_cvtne2ps_pbh(__m512 high, __m512 low) {
    each_of_512i(words, 32, (uint16_t)((((dwords)(i < 16 ? low : high))[i % 16] + 0x7fff + (((dwords)(i < 16 ? low : high))[i % 16] >> 16 & 1)) >> 16));
}

static __m128i _mm_loadu_si128(const __m128i *at) {
    __m128i r;
    memcpy(&r, at, sizeof r);
    return r;
}

static __m256i _mm256_loadu_si256(const __m256i *at) {
    __m256i r;
    memcpy(&r, at, sizeof r);
    return r;
}

static __m512 _mm512_cvtph_ps(__m256i v) {
    _Float16 h[16];
    memcpy(h, &v, sizeof h);
    each(__m512, 16, (float)h[i]);
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

// The products in even places and those in odd ones are summed up apart.
static void _tile_dpbf16ps(int c, int a, int b) {
    used(c), used(a), used(b);
    if (shapes.rows[c] != shapes.rows[a] || shapes.bytes[c] != shapes.bytes[b] || shapes.bytes[a] != 4 * shapes.rows[b]) abort(); // so would the processor
    for (int m = 0; m < shapes.rows[c]; m++)
        for (int n = 0; n < shapes.bytes[c] / 4; n++) {
            float all, sum[2] = {0};
            memcpy(&all, &tiles[c][m][4 * n], 4);
            for (int k = 0; k < 2 * shapes.rows[b]; k++) {
                float x = 0, y = 0; // bfloat16 is the upper half
                memcpy((char *)&x + 2, &tiles[a][m][2 * k], 2), memcpy((char *)&y + 2, &tiles[b][k / 2][4 * n + 2 * (k % 2)], 2);
                sum[k % 2] = fmaf(x, y, sum[k % 2]);
            }
            all += sum[0] + sum[1];
            memcpy(&tiles[c][m][4 * n], &all, 4);
        }
}
