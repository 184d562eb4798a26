// Products of weights in blocks with activations in whole numbers or bfloat16: what the kernels for each level have in common.
//
// Weights. Rows are taken in groups of 16, columns in blocks of 32. A group is stored block after block:
//   4 bits: 4 x 64 bytes; byte 4r+i of chunk j holds column 4j+i of row r in its low half and column 16+4j+i
//           in its high half; then 16 scales and 16 minima. A weight is scale*q + minimum.
//   8 bits: 8 x 64 bytes; byte 4r+i of chunk j is column 4j+i of row r; then 16 scales. A weight is
//           scale*(q-128).
//   bfloat16, 4 bits: 4 x 64 bytes; word k of chunk j holds column k of rows 4j to 4j+3, the first lowest; then 16
//           scales and 16 minima.
//   bfloat16, 8 bits: 32 bytes of each row, of which 128 is taken off; then 16 scales.
// Scales and minima are half or single precision. Rows that fill up the last group are zero.
//
// Activations in whole numbers. Each row is cut into blocks of 32 too: scale = max|x|/most, q = round(x/scale), 0 where
// all are below 1e-30. x is normed before, where a product has weights of a norm. most is 127 for 4-bit weights, and
// 32767 for 8-bit ones: those are of heads, whose outputs are told apart by little, and products of words cost no more
// than those of bytes with whole bytes. Words lie in an order that fits the weights': of each four columns 0, 2, 1, 3.
// Values that are no numbers make any result.
//
// The sum over a block is a whole number; blocks are added in their order by fused multiply-adds. So every level gives
// the same bits, and a row's do not depend on the rows beside it.
//
// Activations in bfloat16, for processors with matrix instructions (AMX). They are rounded to the nearest, those below
// 2^-50 to 0; weights become the upper halves of LIFT*scale*q + LIFT*minimum and LIFT*scale*(q-128), where LIFT makes
// of cutting off, on the mean, rounding. A block is summed up as these instructions do it: the products in even columns
// and those in odd ones apart, in order, and both together are added to the sum of the blocks before. A product of two
// such numbers is exact in single precision, so that fused multiply-adds and others give the same bits.
#ifndef PELTON_BLOCKS_H
#define PELTON_BLOCKS_H

#include "kernel.h"

#include <math.h>
#include <string.h>

// TILE is the most rows of activations of one call. Of bfloat16 CHUNK of them lie together, and MANY are the most.
enum { GROUP = 16, BLOCK = 32, TILE = 4, CHUNK = 16, MANY = 6 * CHUNK };

#define LIFT (1 + 1.386f / 512)

// AHEAD is how far ahead of their use weights are fetched, in bytes: across pages, which the processor's own
// prefetching does not do.
enum { AHEAD = 8192 };

typedef struct {
    int64_t rows, columns, bits, wide, gated, bfloat16; // wide: scales in single precision
    float epsilon;                                      // of the norm
} form;

enum { MOST4 = 127, MOST8 = 32767 };

typedef struct {
    void *q;        // [rows, columns] int8, or int16 for 8-bit weights
    float *scale;   // [rows, blocks]
    float *sum;     // [rows, blocks]: scale times the sum of q
    int32_t *shift; // [rows, blocks]: -128 times the sum of q
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

static inline size_t block_bytes(const form *f) {
    return GROUP * (f->bits == 4 ? BLOCK / 2 + 2 * (f->wide ? 4 : 2) : BLOCK + (f->wide ? 4 : 2));
}

// half is the number that half precision writes so.
static inline float half(uint16_t h) {
    uint32_t sign = (uint32_t)(h >> 15) << 31, exponent = h >> 10 & 31, fraction = h & 1023, bits;
    if (exponent == 0) return (sign ? -1.0f : 1.0f) * (float)fraction * 0x1p-24f;
    bits = sign | (exponent == 31 ? 255u : exponent + 112) << 23 | fraction << 13;
    float v;
    memcpy(&v, &bits, sizeof v);
    return v;
}

// number is the i-th scale or minimum of a block.
static inline float number(const form *f, const uint8_t *block, int i) {
    const uint8_t *at = block + GROUP * BLOCK * f->bits / 8;
    if (!f->wide) {
        uint16_t h;
        memcpy(&h, at + 2 * i, sizeof h);
        return half(h);
    }
    float v;
    memcpy(&v, at + 4 * i, sizeof v);
    return v;
}

// weight is the q of row r in column k of a block.
static inline int weight(const form *f, const uint8_t *block, int r, int k) {
    if (f->bits == 8) return f->bfloat16 ? block[BLOCK * r + k] ^ 128 : block[64 * (k / 4) + 4 * r + k % 4];
    if (f->bfloat16) return block[64 * (r / 4) + 2 * k + r % 4 / 2] >> 4 * (r % 2) & 15;
    int w = block[64 * (k % (BLOCK / 2) / 4) + 4 * r + k % 4];
    return k < BLOCK / 2 ? w & 15 : w >> 4;
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

// Kernels of one level for bfloat16; begin and end stand around the use of multiply on a thread, where they are not NULL.
typedef struct {
    void (*begin)(void), (*end)(void);
    // shorten makes bfloat16 of n rows of x, at most CHUNK, normed unless norm is NULL. Of a block to has a pair of
    // columns after the other, of each the CHUNK rows, of which those behind n are zeros.
    void (*shorten)(const form *, const float *x, const float *norm, size_t n, uint16_t *to);
    // multiply multiplies n rows of activations, at most MANY, with a group. From one row of out to the next are stride.
    void (*multiply)(const form *, const uint8_t *group, const uint16_t *x, size_t n, float *out, size_t stride);
} bfloat_kernels;

extern const bfloat_kernels bfloats_portable, bfloats_avx2, bfloats_amx;

#endif
