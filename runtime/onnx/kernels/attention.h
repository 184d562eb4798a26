// Attention over the KV cache: what the kernels for each level have in common.
//
// Cache. [slots, kv_heads, capacity, dim] numbers, of half or single precision, in panels of 16 tokens of a
// head: of keys a panel holds dimension after dimension, [dim][16], so that one instruction goes on with the
// scores of many tokens; of values token after token. Of bfloat16 two numbers that are added up one after the other lie
// side by side, as the instructions for them want it: of keys two dimensions, [dim/2][16][2], of values two tokens,
// [8][dim][2]. Queries and weights are then rounded to bfloat16 too (attention_bfloats.h).
//
// Each row, which is one query head of one token, goes over the keys that it sees in blocks of 128, with an
// online softmax. What is added up, and in which order, depends on the row's position alone. So its bits are
// the same alone or beside others, in a prompt of any cut, on any number of threads and at every level.
// Rows that share a head of the cache go over a block together: it is read once.
#ifndef PELTON_ATTENTION_H
#define PELTON_ATTENTION_H

#include "kernel.h"

enum {
    PANEL = 16,
    BLOCK = 128,     // keys
    ROWS = 24,       // most rows that go over a block together, but for bfloat16
    MAX_DIM = 1024,  // of a head, a multiple of PANEL
    BRIEF_DIM = 256  // of one of bfloat16, a multiple of 32
};

// A call: tokens of any sequences, those of one sequence side by side and in order.
typedef struct {
    size_t heads, kv_heads, dim;
    size_t slots, capacity, positions; // of the cache; of cos and sin
    int half;                          // the cache is of half precision, unless the kernels are of bfloat16
    float scale;                       // of the scores
    const float *cos, *sin;            // [positions, dim/2]
    char *keys, *values;               // the cache
    const float *qkv;                  // [tokens, (heads + 2 kv_heads) * dim]
    const int32_t *places;             // [tokens, 2]: slot and position
    float *out;                        // [tokens, heads * dim]
    size_t tokens;
} attention;

// A tile is what is computed at once: tokens of one sequence.
typedef struct {
    size_t first, count;
} tile;

// A set of kernels of one level.
typedef struct {
    // append writes a token's keys, turned to its position, and its values into a head of the cache.
    void (*append)(const attention *, size_t token, size_t kv_head);
    // attend computes the tile's rows of the query heads that share a head of the cache.
    void (*attend)(const attention *, tile, size_t kv_head);
    size_t rows; // most rows that go over a block together
} attention_kernels;

extern const attention_kernels attention_portable, attention_avx2, attention_avx512;
extern const attention_kernels attention_bfloats, attention_amx; // of bfloat16

#endif
