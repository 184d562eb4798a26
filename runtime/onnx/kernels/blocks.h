// Products of weights in blocks with activations in bytes: what the kernels for each level have in common.
//
// Weights. Rows are taken in groups of 16, columns in blocks of 32. A group is stored block after block:
//   4 bits: 4 x 64 bytes; byte 4r+i of chunk j holds column 4j+i of row r in its low half and column 16+4j+i
//           in its high half; then 16 scales and 16 minima. A weight is scale*q + minimum.
//   8 bits: 8 x 64 bytes; byte 4r+i of chunk j is column 4j+i of row r; then 16 scales. A weight is
//           scale*(q-128).
// Scales and minima are half or single precision. Rows that fill up the last group are zero.
//
// Activations. Each row is cut into blocks of 32 too: scale = max|x|/most, q = round(x/scale), 0 where all are
// below 1e-30. x is normed before, where a product has weights of a norm. most is 127 for 4-bit weights, and 32767
// for 8-bit ones: those are of heads, whose outputs are told apart by little, and products of words cost no more
// than those of bytes with whole bytes. Words lie in an order that fits the weights': of each four columns 0, 2, 1,
// 3. Values that are no numbers make any result.
//
// The sum over a block is a whole number; blocks are added in their order by fused multiply-adds. So every level gives
// the same bits, and a row's do not depend on the rows beside it.
#ifndef PELTON_BLOCKS_H
#define PELTON_BLOCKS_H

#include "kernel.h"

#include <math.h>

// TILE is the most rows of activations of one call, MANY that of one of many_kernels.
enum { GROUP = 16, BLOCK = 32, TILE = 4, MANY = 16 };

// AHEAD is how far ahead of their use weights are fetched, in bytes: across pages, which the processor's own
// prefetching does not do.
enum { AHEAD = 8192 };

typedef struct {
    int64_t rows, columns, bits, wide, gated; // wide: scales in single precision
    float epsilon;                            // of the norm
} form;

enum { MOST4 = 127, MOST8 = 32767 };

typedef struct {
    void *q;        // [rows, columns] int8, or int16 for 8-bit weights
    float *scale;   // [rows, blocks]
    float *sum;     // [rows, blocks]: scale times the sum of q
    int32_t *shift; // [rows, blocks]: -128 times the sum of q
    float *lanes;   // scale and sum as many_kernels take them; NULL where there are none
    int8_t *halves; // of words, for many_kernels: of each row the high bytes in their order, and behind them the low ones
} activations;

// finish notes a block's scale and the sum of its q.
static inline void finish(const activations *a, size_t block, float scale, int32_t total) {
    a->scale[block] = scale;
    a->sum[block] = scale * (float)total;
    a->shift[block] = -128 * total;
}

// word is where column k of a row of words is: of each four 0, 2, 1, 3.
static inline size_t word(size_t k) { return k % 4 == 1 ? k + 1 : k % 4 == 2 ? k - 1 : k; }

static inline size_t blocks_of(const form *f) { return (size_t)f->columns / BLOCK; }

// lanes_of is where block b of a chunk of MANY rows has its scales, one for each row, and behind them its sums.
static inline float *lanes_of(const form *f, const activations *a, size_t chunk, size_t b) { return a->lanes + 2 * MANY * (chunk * blocks_of(f) + b); }

static inline size_t block_bytes(const form *f) {
    return GROUP * (f->bits == 4 ? BLOCK / 2 + 2 * (f->wide ? 4 : 2) : BLOCK + (f->wide ? 4 : 2));
}

// unit_of is what a row's values are multiplied with by an RMS norm: 16 sums of squares, added in pairs.
static inline float unit_of(const form *f, const float *x) {
    float sum[16] = {0};
    for (size_t i = 0; i < (size_t)f->columns; i += 16)
        for (int l = 0; l < 16; l++) sum[l] += x[i + l] * x[i + l];
    for (int step = 8; step; step /= 2)
        for (int l = 0; l < step; l++) sum[l] += sum[l + step];
    return 1 / sqrtf(sum[0] / (float)f->columns + f->epsilon);
}

// spread writes a row's scales and sums among the lanes, and the halves of its words.
static inline void spread(const form *f, const activations *a, size_t row) {
    for (size_t b = 0, at = row * blocks_of(f); b < blocks_of(f); b++, at++) {
        float *lane = lanes_of(f, a, row / MANY, b) + row % MANY;
        lane[0] = a->scale[at], lane[MANY] = a->sum[at];
    }
    if (f->bits == 4) return;
    const int16_t *q = (const int16_t *)a->q + row * f->columns;
    int8_t *high = a->halves + row * 2 * f->columns, *low = high + f->columns;
    for (size_t k = 0; k < (size_t)f->columns; k++) high[word(k)] = q[k] >> 8, low[word(k)] = q[k];
}

// The attributes of a kernel, and whether weights are what they say.
OrtStatus *create_form(const OrtKernelInfo *, void **kernel);
OrtStatus *check_weights(const form *, const tensor *weights);

// unpack_row makes numbers of row r of a group.
void unpack_row(const form *, const uint8_t *group, int r, float *out);

// A set of kernels of one level.
typedef struct {
    // quantize fills row of a from x, which it norms before unless norm, the weights of that, is NULL.
    void (*quantize)(const form *, const float *x, const float *norm, const activations *a, size_t row);
    // tile multiplies n rows of activations, at most TILE, with a group of weights.
    void (*tile)(const form *, const uint8_t *group, const activations *a, size_t row, size_t n, float out[TILE][GROUP]);
    // gate makes silu(gate)*up of a group, in gate.
    void (*gate)(float gate[GROUP], const float up[GROUP]);
} block_kernels;

extern const block_kernels blocks_portable, blocks_avx2, blocks_avx512;

// Kernels for many rows; begin and end stand around their use on a thread.
typedef struct {
    void (*begin)(void), (*end)(void);
    // unpack prepares a group, in GROUP bytes for each column.
    void (*unpack)(const form *, const uint8_t *group, uint8_t *to);
    // many multiplies n rows of activations, at most MANY, with a group. It reads those of MANY rows.
    void (*many)(const form *, const uint8_t *group, const uint8_t *unpacked, const activations *a, size_t row, size_t n, float out[MANY][GROUP]);
} many_kernels;

extern const many_kernels many_amx;

#endif
