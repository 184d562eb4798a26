// The code of the attention kernels with a cache of bfloat16, compiled twice, by the files that include this one: for
// processors with matrix instructions (AMX), and as the definition for all others. They define what attention_vectors.h
// wants, with LANES 16, and
//   vec fma_(vec a, vec b, vec c)                      a*b + c, rounded once
//   vec larger(vec a, vec b)                           a where that is larger, else b
//   void brief(vec low, vec high, uint16_t to[32])     the nearest of bfloat16, 0 for what is below 2^-50
//   void pack(vec low, vec high, uint16_t to[32])      the same where nothing is, but 0
//   void begin(void), end(void)                        around the use of products on a thread
//   void products(matrix c, int go_on, rows a, cached b, size_t steps)
// where products multiplies a's rows with the cache, in steps of 32 numbers: those in even places and those in odd ones
// are summed up apart, in order, and both together are added to c, or to 0 unless it goes on.

#include "attention_vectors.h"

enum { STEP = 32, TILE_ROWS = 16, TILES = 3, BRIEF_ROWS = TILES * TILE_ROWS };

// rows are `tiles` times 16 of bfloat16, each `stride` numbers behind the one before.
typedef struct {
    const uint16_t *at;
    size_t stride, tiles;
} rows;

// cached are numbers of the cache: a step has 16 pairs, each `stride` numbers behind the one before, of 16 keys or of 16
// dimensions of values.
typedef struct {
    const uint16_t *at;
    size_t stride;
} cached;

// matrix is what comes out: a row for each of rows, with 16 numbers.
typedef struct {
    float *at;
    size_t stride;
} matrix;

static void begin(void), end(void), brief(vec low, vec high, uint16_t to[STEP]), pack(vec low, vec high, uint16_t to[STEP]);
static void products(matrix c, int go_on, rows a, cached b, size_t steps);

// What tiles are made of begins where a line of memory does, so that none of their rows lies in two.
#define LINE __attribute__((aligned(64)))

// A state of rows, which are filled up with zeros to whole tiles.
typedef struct {
    uint16_t query[BRIEF_ROWS * BRIEF_DIM] LINE; // times the scale
    float sums[BRIEF_ROWS * BRIEF_DIM] LINE;     // of weights times values
    float largest[BRIEF_ROWS], total[BRIEF_ROWS];
    size_t visible[BRIEF_ROWS]; // keys that the row sees
} state;

// power is e^x for x <= 0 to five digits, at least 2^-40; of 0 it is 1.
INLINE vec power(vec x) {
    vec t = larger(splat(-40), x * 1.44269504f);
    vec shifted = t + 0x1.8p23f, r = t - (shifted - 0x1.8p23f); // the integer is in the low bits
    vec p = fma_(splat(9.618e-3f), r, splat(5.5504e-2f));
    p = fma_(p, r, splat(2.402265e-1f));
    p = fma_(p, r, splat(6.931472e-1f));
    p = fma_(p, r, splat(1));
    return (vec)((ints)p + ((ints)shifted << 23));
}

// counted is x where it stands for one of n keys, and else for the others.
INLINE vec counted(vec x, size_t at, size_t n, float other) {
    if (at + LANES <= n) return x;
    const ints place = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return choose(place < (int32_t)n - (int32_t)at, x, splat(other));
}

// largest is the largest of the first n of a row's scores.
INLINE float largest(const float *scores, size_t n) {
    vec most = splat(-INFINITY);
    for (size_t i = 0; i < n; i += LANES) {
        most = larger(counted(load(scores + i), i, n, -INFINITY), most);
    }
    return fold((float *)&most, 1);
}

// soften makes weights of the first n of a row's scores, 0 up to padded, and brings the sums to the new largest score.
INLINE void soften(const float *scores, size_t n, size_t padded, float most, state *s, size_t row, size_t dim, uint16_t *weights) {
    memset(weights + n / STEP * STEP, 0, (padded - n / STEP * STEP) * sizeof *weights);
    if (!n) return;
    vec sum = splat(0);
    for (size_t i = 0; i < n; i += STEP) {
        vec low = counted(power(load(scores + i) - most), i, n, 0), high = splat(0);
        if (i + LANES < n) high = counted(power(load(scores + i + LANES) - most), i + LANES, n, 0);
        sum += low, sum += high;
        pack(low, high, weights + i);
    }
    const vec shrink = power(splat(s->largest[row] - most));
    s->largest[row] = most;
    s->total[row] = s->total[row] * shrink[0] + fold((float *)&sum, 0);
    for (size_t d = 0; d < dim; d += LANES) store(s->sums + row * dim + d, load(s->sums + row * dim + d) * shrink);
}

INLINE void fetch(const uint16_t *from, size_t numbers) {
    for (size_t i = 0; i < numbers; i += 32) __builtin_prefetch(from + i);
}

// over lets n rows see a block of tokens, of which the first has number `from`, and fetches the next block.
INLINE void over(state *s, size_t n, const uint16_t *keys, const uint16_t *values, size_t dim, size_t from, size_t tokens) {
    float scores[BRIEF_ROWS * BLOCK] LINE;
    uint16_t weights[BRIEF_ROWS * BLOCK] LINE, last[STEP * BRIEF_DIM] LINE;
    const size_t tiles = (n + TILE_ROWS - 1) / TILE_ROWS, whole = tokens / STEP, steps = (tokens + STEP - 1) / STEP;
    for (size_t t = 0; t < tokens; t += PANEL) {
        fetch(values + t * dim, PANEL * dim);
        products((matrix){scores + t, BLOCK}, 0, (rows){s->query, dim, tiles}, (cached){keys + t * dim, 2 * PANEL}, dim / STEP);
    }
    float most[BRIEF_ROWS];
    size_t visible[BRIEF_ROWS];
    for (size_t r = 0; r < n; r++) { // of all rows first: a row's weights wait for its largest score
        visible[r] = s->visible[r] < from ? 0 : s->visible[r] - from < tokens ? s->visible[r] - from : tokens;
        most[r] = largest(scores + r * BLOCK, visible[r]);
        if (!(most[r] > s->largest[r])) most[r] = s->largest[r];
    }
    for (size_t r = 0; r < n; r++) soften(scores + r * BLOCK, visible[r], steps * STEP, most[r], s, r, dim, weights + r * BLOCK);
    for (size_t r = n; r < tiles * TILE_ROWS; r++) memset(weights + r * BLOCK, 0, BLOCK * sizeof *weights);
    if (whole < steps) { // what lies behind the last token may be no number
        memset(last, 0, STEP * dim * sizeof *last);
        for (size_t t = whole * STEP; t < tokens; t += 2)
            for (size_t i = t % STEP * dim, d = 0; d < dim; d++, i += 2) {
                last[i] = values[t * dim + 2 * d];
                if (t + 1 < tokens) last[i + 1] = values[t * dim + 2 * d + 1];
            }
    }
    for (size_t d = 0; d < dim; d += LANES) {
        if (tokens == BLOCK) fetch(keys + BLOCK * (dim + d), BLOCK * LANES);
        products((matrix){s->sums + d, dim}, 1, (rows){weights, BLOCK, tiles}, (cached){values + 2 * d, 2 * dim}, whole);
        if (whole < steps) products((matrix){s->sums + d, dim}, 1, (rows){weights + whole * STEP, BLOCK, tiles}, (cached){last + 2 * d, 2 * dim}, 1);
    }
}

static TARGET void append(const attention *a, size_t token, size_t kv_head) {
    const size_t dim = a->dim, slot = a->places[2 * token], position = a->places[2 * token + 1], at = position % PANEL;
    const float *k = a->qkv + (token * (a->heads + 2 * a->kv_heads) + a->heads + kv_head) * dim, *v = k + a->kv_heads * dim;
    const size_t panel = ((slot * a->kv_heads + kv_head) * a->capacity + position - at) * dim;
    uint16_t *keys = (uint16_t *)a->keys + panel, *values = (uint16_t *)a->values + panel + at / 2 * 2 * dim + at % 2, numbers[STEP];
    float turned[BRIEF_DIM];
    turn(a, k, position, 1, turned);
    for (size_t d = 0; d < dim; d += STEP) {
        brief(load(turned + d), load(turned + d + LANES), numbers);
        for (size_t i = 0; i < STEP; i += 2) memcpy(keys + (d + i) * PANEL + 2 * at, numbers + i, 2 * sizeof *keys);
        brief(load(v + d), load(v + d + LANES), numbers);
        for (size_t i = 0; i < STEP; i++) values[2 * (d + i)] = numbers[i];
    }
}

static TARGET void attend(const attention *a, tile t, size_t kv_head) {
    const size_t dim = a->dim, group = a->heads / a->kv_heads, width = (a->heads + 2 * a->kv_heads) * dim;
    const size_t head = ((size_t)a->places[2 * t.first] * a->kv_heads + kv_head) * a->capacity * dim;
    const uint16_t *keys = (const uint16_t *)a->keys + head, *values = (const uint16_t *)a->values + head;
    state s;
    begin();
    for (size_t first = 0; first < t.count * group; first += BRIEF_ROWS) {
        const size_t n = t.count * group - first < BRIEF_ROWS ? t.count * group - first : BRIEF_ROWS, all = (n + TILE_ROWS - 1) / TILE_ROWS * TILE_ROWS;
        size_t seen = 0;
        memset(s.sums, 0, all * dim * sizeof *s.sums);
        memset(s.query + n * dim, 0, (all - n) * dim * sizeof *s.query);
        for (size_t r = 0; r < n; r++) {
            const size_t token = t.first + (first + r) / group, position = a->places[2 * token + 1];
            float query[BRIEF_DIM];
            turn(a, a->qkv + token * width + (kv_head * group + (first + r) % group) * dim, position, a->scale, query);
            for (size_t d = 0; d < dim; d += STEP) brief(load(query + d), load(query + d + LANES), s.query + r * dim + d);
            s.largest[r] = -INFINITY, s.total[r] = 0, s.visible[r] = seen = position + 1;
        }
        for (size_t from = 0; from < seen; from += BLOCK)
            over(&s, n, keys + from * dim, values + from * dim, dim, from, seen - from < BLOCK ? seen - from : BLOCK);
        for (size_t r = 0; r < n; r++) {
            float *out = a->out + ((t.first + (first + r) / group) * a->heads + kv_head * group + (first + r) % group) * dim;
            for (size_t d = 0; d < dim; d++) out[d] = s.sums[r * dim + d] / s.total[r];
        }
    }
    end();
}
