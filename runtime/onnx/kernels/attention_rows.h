// The code of the attention kernels, compiled once for each level, by the file that includes this one. That
// defines vec, a vector of LANES floats; ints, as many integers; TARGET; and
//   vec widen(const char *)       LANES numbers of half precision
//   uint16_t narrow(float)        the nearest finite one
//   vec fma_(vec a, vec b, vec c) a*b + c, rounded once

#include "attention.h"

#include <math.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline)) TARGET
#define UNROLL _Pragma("GCC unroll 6")

// TOGETHER is the most rows at once, WIDE the most vectors beside up to three rows: their sums stay in registers.
// Beside more rows there are two vectors, which hold a panel at least.
enum { WIDE = 4, TOGETHER = 2 * LANES >= PANEL ? 6 : 3 };

// NEAR_DIM is the largest dimension of heads whose blocks are widened on the stack.
enum { NEAR_DIM = 128 };

INLINE vec splat(float x) { return x - (vec){0}; }
INLINE vec load(const float *p) { return *(const vec *)p; }
INLINE void store(float *p, vec v) { *(vec *)p = v; }
INLINE vec choose(ints mask, vec a, vec b) { return (vec)((mask & (ints)a) | (~mask & (ints)b)); }

// exponential of x ≤ 0; below -87 it is 0.
INLINE vec exponential(vec x) {
    vec bounded = choose(x < -87.0f, splat(-87.0f), x);
    vec shifted = fma_(bounded, splat(1.44269504f), splat(0x1.8p23f)); // the integer is in the low bits
    vec n = shifted - 0x1.8p23f;
    vec r = fma_(n, splat(2.12194440e-4f), fma_(n, splat(-0.693359375f), bounded));
    vec p = splat(1.9875691500e-4f);
    p = fma_(p, r, splat(1.3981999507e-3f));
    p = fma_(p, r, splat(8.3334519073e-3f));
    p = fma_(p, r, splat(4.1665795894e-2f));
    p = fma_(p, r, splat(1.6666665459e-1f));
    p = fma_(p, r, splat(5.0000001201e-1f));
    p = fma_(p, r * r, r) + 1.0f;
    ints power = ((ints)shifted - 0x4B400000 + 127) << 23;
    return choose(x < -87.0f, splat(0), p * (vec)power);
}

// place of number `at` in the cache.
INLINE const char *place(const char *cache, size_t at, int half) { return cache + (half ? 2 : 4) * at; }

// cached loads LANES numbers of the cache from number `at` on.
INLINE vec cached(const char *cache, size_t at, int half) {
    return half ? widen(place(cache, at, 1)) : load((const float *)place(cache, at, 0));
}

INLINE void put(char *cache, size_t at, int half, float x) {
    if (half) {
        uint16_t h = narrow(x);
        memcpy(cache + 2 * at, &h, sizeof h);
    } else
        ((float *)cache)[at] = x;
}

// turn is the rotary embedding of a head's vector, times scale.
INLINE void turn(const attention *a, const float *x, size_t position, float scale, float *to) {
    size_t half = a->dim / 2;
    const float *cos = a->cos + position * half, *sin = a->sin + position * half;
    for (size_t i = 0; i < half; i++) {
        float u = x[i], v = x[half + i];
        to[i] = (u * cos[i] - v * sin[i]) * scale;
        to[half + i] = (v * cos[i] + u * sin[i]) * scale;
    }
}

INLINE void append_as(const attention *a, size_t token, size_t kv_head, int half) {
    size_t dim = a->dim, slot = a->places[2 * token], position = a->places[2 * token + 1];
    const float *k = a->qkv + (token * (a->heads + 2 * a->kv_heads) + a->heads + kv_head) * dim, *v = k + a->kv_heads * dim;
    size_t head = (slot * a->kv_heads + kv_head) * a->capacity * dim;
    size_t panel = head + position / PANEL * PANEL * dim + position % PANEL;
    float turned[MAX_DIM];
    turn(a, k, position, 1, turned);
    for (size_t i = 0; i < dim; i++) {
        put(a->keys, panel + i * PANEL, half, turned[i]);
        put(a->values, head + position * dim + i, half, v[i]);
    }
}

static TARGET void append(const attention *a, size_t token, size_t kv_head) {
    if (a->half)
        append_as(a, token, kv_head, 1);
    else
        append_as(a, token, kv_head, 0);
}

// A state of rows: the scaled query, the largest score so far, and the sums of exp(score - largest) and of
// that times the values.
typedef struct {
    float query[ROWS][MAX_DIM], sums[ROWS][MAX_DIM];
    float largest[ROWS], total[ROWS];
    size_t visible[ROWS]; // keys that the row sees
} state;

// score multiplies n queries with the keys of `wide` vectors of tokens, dimension after dimension. As many numbers
// from next on are fetched meanwhile: the processor by itself stops at the end of a page, which a panel may fill.
INLINE void score(const float (*query)[MAX_DIM], const char *keys, size_t at, size_t dim, int half, const int n, const int wide, float (*to)[BLOCK], const char *next) {
    vec sum[TOGETHER][WIDE];
    UNROLL for (int r = 0; r < n; r++)
        UNROLL for (int w = 0; w < wide; w++) sum[r][w] = splat(0);
    for (size_t d = 0; d < dim; d++) {
        vec key[WIDE];
        UNROLL for (int w = 0; w < wide; w++) {
            size_t token = w * LANES, number = token / PANEL * PANEL * dim + d * PANEL + token % PANEL;
            key[w] = cached(keys, at + number, half);
            if (token % PANEL == 0) __builtin_prefetch(place(next, number, half));
        }
        UNROLL for (int r = 0; r < n; r++)
            UNROLL for (int w = 0; w < wide; w++) sum[r][w] = fma_(key[w], splat(query[r][d]), sum[r][w]);
    }
    UNROLL for (int r = 0; r < n; r++)
        UNROLL for (int w = 0; w < wide; w++) store(to[r] + w * LANES, sum[r][w]);
}

// soften turns a row's scores of a block, of which the first `visible` count, into weights, and brings the
// sums to the new largest score. Of no score, it makes weights of 0.
INLINE void soften(float *scores, size_t visible, size_t padded, state *s, size_t row, size_t dim) {
    if (!visible) {
        memset(scores, 0, padded * sizeof *scores);
        return;
    }
    float lane[PANEL], largest = s->largest[row];
    for (size_t i = visible; i < padded; i++) scores[i] = -INFINITY;
    memcpy(lane, scores, sizeof lane);
    for (size_t i = PANEL; i < padded; i++) lane[i % PANEL] = scores[i] > lane[i % PANEL] ? scores[i] : lane[i % PANEL];
    for (size_t i = 0; i < PANEL; i++) largest = lane[i] > largest ? lane[i] : largest;
    memset(lane, 0, sizeof lane);
    for (size_t i = 0; i < padded; i += PANEL)
        UNROLL for (int w = 0; w < PANEL; w += LANES) {
            vec weight = exponential(load(scores + i + w) - largest);
            store(scores + i + w, weight);
            store(lane + w, load(lane + w) + weight);
        }
    for (size_t step = PANEL / 2; step; step /= 2)
        for (size_t i = 0; i < step; i++) lane[i] += lane[i + step];
    vec shrink = exponential(splat(s->largest[row] - largest));
    s->largest[row] = largest;
    s->total[row] = s->total[row] * shrink[0] + lane[0];
    for (size_t d = 0; d < dim; d += LANES) store(s->sums[row] + d, load(s->sums[row] + d) * shrink);
}

// mix adds the values of a block, times their weights, to `wide` vectors of the sums of n rows, token after
// token, and fetches those of the next panel.
INLINE void mix(const float (*weights)[BLOCK], const char *values, size_t at, size_t tokens, size_t dim, int half, const int n, const int wide, float (*sums)[MAX_DIM], size_t from) {
    vec sum[TOGETHER][WIDE];
    UNROLL for (int r = 0; r < n; r++)
        UNROLL for (int w = 0; w < wide; w++) sum[r][w] = load(sums[r] + from + w * LANES);
    for (size_t t = 0; t < tokens; t++) {
        vec value[WIDE];
        UNROLL for (int w = 0; w < wide; w++) {
            size_t number = at + t * dim + from + w * LANES;
            value[w] = cached(values, number, half);
            if (w * LANES % PANEL == 0) __builtin_prefetch(place(values, number + PANEL * dim, half));
        }
        UNROLL for (int r = 0; r < n; r++)
            UNROLL for (int w = 0; w < wide; w++) sum[r][w] = fma_(value[w], splat(weights[r][t]), sum[r][w]);
    }
    UNROLL for (int r = 0; r < n; r++)
        UNROLL for (int w = 0; w < wide; w++) store(sums[r] + from + w * LANES, sum[r][w]);
}

// block lets n rows see up to BLOCK keys, of which the first has number `from`.
INLINE void block(state *s, size_t row, const int n, const char *keys, const char *values, size_t dim, size_t from, size_t tokens, int half) {
    size_t padded = (tokens + PANEL - 1) / PANEL * PANEL, i = 0, d = 0;
    const float(*query)[MAX_DIM] = (const float(*)[MAX_DIM])s->query + row;
    const int wide = n > 3 ? 2 : WIDE;
    float weights[TOGETHER][BLOCK];
    for (; i + wide * LANES <= padded; i += wide * LANES) {
        int more = i + 2 * wide * LANES <= padded;
        const char *next = more ? place(keys, (i + wide * LANES) * dim, half) : values;
        score(query, keys, i * dim, dim, half, n, wide, (float(*)[BLOCK]) & weights[0][i], next);
    }
    for (; i < padded; i += PANEL)
        score(query, keys, i * dim, dim, half, n, PANEL / LANES, (float(*)[BLOCK]) & weights[0][i], values);
    for (int r = 0; r < n; r++) {
        size_t visible = s->visible[row + r] > from ? s->visible[row + r] - from : 0;
        soften(weights[r], visible < tokens ? visible : tokens, padded, s, row + r, dim);
    }
    for (; d + wide * LANES <= dim; d += wide * LANES)
        mix((const float(*)[BLOCK])weights, values, 0, tokens, dim, half, n, wide, s->sums + row, d);
    for (; d < dim; d += LANES)
        mix((const float(*)[BLOCK])weights, values, 0, tokens, dim, half, n, 1, s->sums + row, d);
}

// over lets all rows see a block.
INLINE void over(state *s, size_t rows, const char *keys, const char *values, size_t dim, size_t from, size_t tokens, int half) {
    size_t r = 0;
    for (; r + TOGETHER <= rows; r += TOGETHER) block(s, r, TOGETHER, keys, values, dim, from, tokens, half);
    for (; r + 3 <= rows; r += 3) block(s, r, 3, keys, values, dim, from, tokens, half);
    if (rows - r == 2)
        block(s, r, 2, keys, values, dim, from, tokens, half);
    else if (rows - r == 1)
        block(s, r, 1, keys, values, dim, from, tokens, half);
}

// widened writes n numbers of half precision, a multiple of PANEL, in single precision.
INLINE const char *widened(const char *from, size_t n, float *to) {
    for (size_t i = 0; i < n; i += LANES) store(to + i, widen(from + 2 * i));
    return (const char *)to;
}

INLINE void attend_as(const attention *a, tile t, size_t kv_head, int half) {
    size_t dim = a->dim, group = a->heads / a->kv_heads, width = (a->heads + 2 * a->kv_heads) * dim;
    size_t head = ((size_t)a->places[2 * t.first] * a->kv_heads + kv_head) * a->capacity * dim;
    state s;
    for (size_t begin = 0; begin < t.count * group; begin += ROWS) {
        size_t rows = t.count * group - begin < ROWS ? t.count * group - begin : ROWS, seen = 0;
        for (size_t r = 0; r < rows; r++) {
            size_t token = t.first + (begin + r) / group, position = a->places[2 * token + 1];
            turn(a, a->qkv + token * width + (kv_head * group + (begin + r) % group) * dim, position, a->scale, s.query[r]);
            memset(s.sums[r], 0, dim * sizeof(float));
            s.largest[r] = -INFINITY, s.total[r] = 0, s.visible[r] = seen = position + 1;
        }
        for (size_t from = 0; from < seen; from += BLOCK) {
            size_t tokens = seen - from < BLOCK ? seen - from : BLOCK, numbers = (tokens + PANEL - 1) / PANEL * PANEL * dim;
            const char *keys = place(a->keys, head + from * dim, half), *values = place(a->values, head + from * dim, half);
            if (half && rows > 2 * TOGETHER && dim <= NEAR_DIM) { // rather once than for each few rows
                float near[2][BLOCK * NEAR_DIM];
                over(&s, rows, widened(keys, numbers, near[0]), widened(values, numbers, near[1]), dim, from, tokens, 0);
            } else
                over(&s, rows, keys, values, dim, from, tokens, half);
        }
        for (size_t r = 0; r < rows; r++) {
            float *out = a->out + ((t.first + (begin + r) / group) * a->heads + kv_head * group + (begin + r) % group) * dim;
            for (size_t d = 0; d < dim; d++) out[d] = s.sums[r][d] / s.total[r];
        }
    }
}

static TARGET void attend(const attention *a, tile t, size_t kv_head) {
    if (a->half)
        attend_as(a, t, kv_head, 1);
    else
        attend_as(a, t, kv_head, 0);
}
