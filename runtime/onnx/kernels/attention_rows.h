// The code of the attention kernels, compiled once for each level, by the file that includes this one. That
// defines vec, a vector of LANES floats; ints, as many integers; TARGET; and
//   vec widen(const char *)       LANES numbers of half precision
//   void narrow(vec, uint16_t *)  the nearest finite ones
//   vec fma_(vec a, vec b, vec c) a*b + c, rounded once

#include "attention_vectors.h"

// TOGETHER is the most rows at once, WIDE the most vectors beside up to three rows and MANY_WIDE beside more: their
// sums stay in registers.
enum { WIDE = 4, MANY_WIDE = 2 * LANES > PANEL ? 4 : 2, TOGETHER = 2 * LANES >= PANEL ? 6 : 3 };

// NEAR is how many numbers of a block are kept in single precision at once: they stay in the nearest cache.
enum { NEAR = 4096 };

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

INLINE void append_as(const attention *a, size_t token, size_t kv_head, int half) {
    size_t dim = a->dim, slot = a->places[2 * token], position = a->places[2 * token + 1];
    const float *k = a->qkv + (token * (a->heads + 2 * a->kv_heads) + a->heads + kv_head) * dim, *v = k + a->kv_heads * dim;
    size_t head = (slot * a->kv_heads + kv_head) * a->capacity * dim;
    size_t panel = head + position / PANEL * PANEL * dim + position % PANEL;
    float turned[MAX_DIM];
    turn(a, k, position, 1, turned);
    uint16_t *half_keys = (uint16_t *)a->keys, *half_values = (uint16_t *)a->values;
    float *keys = (float *)a->keys, *values = (float *)a->values;
    for (size_t i = 0; i < dim; i += LANES) {
        uint16_t key[LANES];
        if (half) {
            narrow(load(turned + i), key);
            narrow(load(v + i), half_values + head + position * dim + i);
        } else
            store(values + head + position * dim + i, load(v + i));
        for (size_t l = 0; l < LANES; l++)
            if (half) half_keys[panel + (i + l) * PANEL] = key[l];
            else keys[panel + (i + l) * PANEL] = turned[i + l];
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
    float query[ROWS * MAX_DIM], sums[ROWS * MAX_DIM]; // a row's numbers behind another's
    float largest[ROWS], total[ROWS];
    size_t visible[ROWS]; // keys that the row sees
} state;

// score multiplies n queries with the keys of `wide` vectors of tokens, dimension after dimension. From a cache of half
// precision, as many numbers from next on are fetched meanwhile: the processor by itself stops at the end of a page,
// which a panel may fill.
INLINE void score(const float *query, const int n, const char *keys, size_t dim, int half, const int wide, const char *next, float *to) {
    vec sum[TOGETHER][WIDE];
    UNROLL for (int r = 0; r < n; r++)
        UNROLL for (int w = 0; w < wide; w++) sum[r][w] = splat(0);
    for (size_t d = 0; d < dim; d++) {
        vec key[WIDE];
        UNROLL for (int w = 0; w < wide; w++) {
            size_t token = w * LANES, number = token / PANEL * PANEL * dim + d * PANEL + token % PANEL;
            key[w] = cached(keys, number, half);
            if (next && token % PANEL == 0) __builtin_prefetch(place(next, number, half));
        }
        UNROLL for (int r = 0; r < n; r++)
            UNROLL for (int w = 0; w < wide; w++) sum[r][w] = fma_(key[w], splat(query[r * dim + d]), sum[r][w]);
    }
    UNROLL for (int r = 0; r < n; r++)
        UNROLL for (int w = 0; w < wide; w++) store(to + r * BLOCK + w * LANES, sum[r][w]);
}

enum { VECTORS = PANEL / LANES };

// largest is the largest of a row's scores of a block, of which the first `visible` count, and of those before.
INLINE float largest(float *scores, size_t visible, size_t padded, const state *s, size_t row) {
    if (!visible) return s->largest[row];
    vec lane[VECTORS];
    for (size_t i = visible; i < padded; i++) scores[i] = -INFINITY;
    UNROLL for (int w = 0; w < VECTORS; w++) lane[w] = load(scores + w * LANES);
    for (size_t i = PANEL; i < padded; i += PANEL)
        UNROLL for (int w = 0; w < VECTORS; w++) {
            vec score = load(scores + i + w * LANES);
            lane[w] = choose(score > lane[w], score, lane[w]);
        }
    float most = fold((float *)lane, 1);
    return most > s->largest[row] ? most : s->largest[row];
}

// soften turns a row's scores of a block into weights, and brings the sums to the new largest score. Of no score, it
// makes weights of 0.
INLINE void soften(float *scores, size_t visible, size_t padded, float most, state *s, size_t row, size_t dim) {
    if (!visible) {
        memset(scores, 0, padded * sizeof *scores);
        return;
    }
    vec lane[VECTORS];
    UNROLL for (int w = 0; w < VECTORS; w++) lane[w] = splat(0);
    for (size_t i = 0; i < padded; i += PANEL)
        UNROLL for (int w = 0; w < VECTORS; w++) {
            vec weight = exponential(load(scores + i + w * LANES) - most);
            store(scores + i + w * LANES, weight);
            lane[w] += weight;
        }
    vec shrink = exponential(splat(s->largest[row] - most));
    s->largest[row] = most;
    s->total[row] = s->total[row] * shrink[0] + fold((float *)lane, 0);
    for (size_t d = 0; d < dim; d += LANES) store(s->sums + row * dim + d, load(s->sums + row * dim + d) * shrink);
}

// mix adds the values of tokens, times their weights, to `wide` vectors of the sums of n rows, token after token, and
// fetches those of the next panel.
INLINE void mix(const float *weights, const int n, const char *values, size_t tokens, size_t dim, int half, const int wide, int fetch, float *sums) {
    vec sum[TOGETHER][WIDE];
    UNROLL for (int r = 0; r < n; r++)
        UNROLL for (int w = 0; w < wide; w++) sum[r][w] = load(sums + r * dim + w * LANES);
    for (size_t t = 0; t < tokens; t++) {
        vec value[WIDE];
        UNROLL for (int w = 0; w < wide; w++) {
            size_t number = t * dim + w * LANES;
            value[w] = cached(values, number, half);
            if (fetch && w * LANES % PANEL == 0) __builtin_prefetch(place(values, number + PANEL * dim, half));
        }
        UNROLL for (int r = 0; r < n; r++)
            UNROLL for (int w = 0; w < wide; w++) sum[r][w] = fma_(value[w], splat(weights[r * BLOCK + t]), sum[r][w]);
    }
    UNROLL for (int r = 0; r < n; r++)
        UNROLL for (int w = 0; w < wide; w++) store(sums + r * dim + w * LANES, sum[r][w]);
}

// A piece of a block: keys or values of tokens.
typedef struct {
    const char *numbers;
    size_t tokens, dim;
    int half;         // the numbers are of half precision
    const char *next; // what is read behind the keys; NULL where nothing need be fetched
} piece;

// scores multiplies n queries with the keys of a piece.
INLINE void scores(const float *query, const int n, piece p, float *to) {
    size_t i = 0;
#define SCORE(wide)                                                                              \
    for (; i + wide * LANES <= p.tokens; i += wide * LANES) {                                    \
        const char *keys = place(p.numbers, i * p.dim, p.half), *next = p.next;                  \
        if (next && i + 2 * wide * LANES <= p.tokens) next = place(keys, wide * LANES * p.dim, p.half); \
        score(query, n, keys, p.dim, p.half, wide, next, to + i);                                \
    }
    if (n <= 3 || MANY_WIDE == WIDE) SCORE(WIDE);
    if (2 * LANES >= PANEL) SCORE(2);
    SCORE(PANEL / LANES);
#undef SCORE
}

// mixes adds the values of a piece, times their weights, to the sums of n rows.
INLINE void mixes(const float *weights, const int n, piece p, float *sums) {
    size_t d = 0;
#define MIX(wide)                                     \
    for (; d + wide * LANES <= p.dim; d += wide * LANES) \
        mix(weights, n, place(p.numbers, d, p.half), p.tokens, p.dim, p.half, wide, p.next != NULL, sums + d);
    if (n <= 3 || MANY_WIDE == WIDE) MIX(WIDE);
    MIX(2);
    MIX(1);
#undef MIX
}

// see lets all rows see a piece, as many at once as there are registers for: its keys, or its values.
INLINE void see(state *s, size_t rows, piece p, float *weights, int of_values) {
    size_t r = 0;
#define SEE(n) of_values ? mixes(weights + r * BLOCK, n, p, s->sums + r * p.dim) : scores(s->query + r * p.dim, n, p, weights + r * BLOCK)
    for (; r + TOGETHER <= rows; r += TOGETHER) SEE(TOGETHER);
    for (; r + 3 <= rows; r += 3) SEE(3);
    if (rows - r == 2) SEE(2);
    if (rows - r == 1) SEE(1);
#undef SEE
}

// look lets all rows see a block's keys or values. Those of half precision that many rows see are widened once for all
// of them, so much at a time as stays near.
INLINE void look(state *s, size_t rows, piece all, float *weights, int of_values) {
    if (!all.half || rows <= 2 * TOGETHER) {
        see(s, rows, all, weights, of_values);
        return;
    }
    float near[PANEL * MAX_DIM];
    const size_t fit = NEAR / all.dim / PANEL * PANEL, step = fit ? fit : PANEL;
    for (size_t at = 0; at < all.tokens; at += step) {
        const size_t n = all.tokens - at < step ? all.tokens - at : step;
        const char *numbers = place(all.numbers, at * all.dim, 1);
        for (size_t i = 0; i < n * all.dim; i += LANES) store(near + i, widen(numbers + 2 * i));
        see(s, rows, (piece){(const char *)near, n, all.dim}, weights + at, of_values);
    }
}

// over lets all rows see a block, of which the first key has number `from`.
INLINE void over(state *s, size_t rows, const char *keys, const char *values, size_t dim, size_t from, size_t tokens, int half) {
    float weights[ROWS * BLOCK], most[ROWS];
    size_t padded = (tokens + PANEL - 1) / PANEL * PANEL, visible[ROWS];
    look(s, rows, (piece){keys, padded, dim, half, values}, weights, 0);
    for (size_t r = 0; r < rows; r++) { // of all rows first: a row's weights wait for its largest score
        visible[r] = s->visible[r] < from ? 0 : s->visible[r] - from < tokens ? s->visible[r] - from : tokens;
        most[r] = largest(weights + r * BLOCK, visible[r], padded, s, r);
    }
    for (size_t r = 0; r < rows; r++) soften(weights + r * BLOCK, visible[r], padded, most[r], s, r, dim);
    look(s, rows, (piece){values, tokens, dim, half, values}, weights, 1);
}

INLINE void attend_as(const attention *a, tile t, size_t kv_head, int half) {
    size_t dim = a->dim, group = a->heads / a->kv_heads, width = (a->heads + 2 * a->kv_heads) * dim;
    size_t head = ((size_t)a->places[2 * t.first] * a->kv_heads + kv_head) * a->capacity * dim;
    state s;
    for (size_t begin = 0; begin < t.count * group; begin += ROWS) {
        size_t rows = t.count * group - begin < ROWS ? t.count * group - begin : ROWS, seen = 0;
        for (size_t r = 0; r < rows; r++) {
            size_t token = t.first + (begin + r) / group, position = a->places[2 * token + 1];
            turn(a, a->qkv + token * width + (kv_head * group + (begin + r) % group) * dim, position, a->scale, s.query + r * dim);
            memset(s.sums + r * dim, 0, dim * sizeof(float));
            s.largest[r] = -INFINITY, s.total[r] = 0, s.visible[r] = seen = position + 1;
        }
        for (size_t from = 0; from < seen; from += BLOCK) {
            size_t tokens = seen - from < BLOCK ? seen - from : BLOCK;
            over(&s, rows, place(a->keys, head + from * dim, half), place(a->values, head + from * dim, half), dim, from, tokens, half);
        }
        for (size_t r = 0; r < rows; r++) {
            float *out = a->out + ((t.first + (begin + r) / group) * a->heads + kv_head * group + (begin + r) % group) * dim;
            for (size_t d = 0; d < dim; d++) out[d] = s.sums[r * dim + d] / s.total[r];
        }
    }
}

static TARGET void attend(const attention *a, tile t, size_t kv_head) {
    if (a->half)
        attend_as(a, t, kv_head, 1);
    else
        attend_as(a, t, kv_head, 0);
}
