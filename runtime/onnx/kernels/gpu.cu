// The kernels of the operators for NVIDIA GPUs: DecodeAttention (decode.c), Gate and Best (gate.c). `make ptx` compiles
// this file to gpu.ptx, which drivers compile on for their GPU when a model is loaded.
//
// DecodeAttention is attention of sequences that bring one token each, over a cache in pages, which the token's key and
// value are appended to. A block is one sequence's share, from split to split, of one head of the cache and up to HEADS
// query heads that share it. LANES threads hold a token's key and value between them, eight numbers each; such groups of
// threads take the tokens in turn, several at once, so that enough reads are under way, and each keeps a running softmax.
// At the end they are merged, and merge() merges the splits. A head of the cache is read once for all its query heads.

#ifndef EMULATED
typedef unsigned long long size;

__device__ float low(unsigned pair) {
    float f;
    asm("{.reg .b16 l, h; mov.b32 {l, h}, %1; cvt.f32.f16 %0, l;}" : "=f"(f) : "r"(pair));
    return f;
}

__device__ float high(unsigned pair) {
    float f;
    asm("{.reg .b16 l, h; mov.b32 {l, h}, %1; cvt.f32.f16 %0, h;}" : "=f"(f) : "r"(pair));
    return f;
}

__device__ float single(unsigned short half) {
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(half));
    return f;
}

__device__ unsigned short half(float f) {
    unsigned short h;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(f));
    return h;
}

__device__ float power(float f) { // of two
    asm("ex2.approx.ftz.f32 %0, %0;" : "+f"(f));
    return f;
}
#endif

#define THREADS 128
#define EACH 8 // numbers of a thread, 16 bytes

// Merged softmaxes are sums of weights 2^(score - largest).
#define NONE -1e30f // no score yet: below every score, and 2^(NONE - NONE) is 1

struct alignas(16) eight {
    unsigned pair[EACH / 2];
};

__device__ void unpack(const eight &e, float *to) {
#pragma unroll
    for (int i = 0; i < EACH / 2; i++) to[2 * i] = low(e.pair[i]), to[2 * i + 1] = high(e.pair[i]);
}

// turned is number d of a head at a position, rotated by halves: of pairs (d, d + dim/2).
__device__ float turned(const unsigned short *head, const unsigned short *cos, const unsigned short *sin, int position, int d, int dim) {
    const int middle = dim / 2, i = d < middle ? d : d - middle;
    const float other = single(head[d < middle ? d + middle : i]);
    const float c = single(cos[position * middle + i]), s = single(sin[position * middle + i]);
    return single(head[d]) * c + (d < middle ? -other : other) * s;
}

struct call {
    const unsigned short *qkv, *cos, *sin; // [tokens, (heads + 2 kv_heads) * dim], [positions, dim/2]
    unsigned short *keys, *values, *out;   // [pages, page, kv_heads, dim], [tokens, heads * dim]
    float *parts;                          // [rows, heads, splits, dim + 2], with more than one split
    const int *held, *table;               // [rows], [rows, width]
    int heads, kv_heads, dim, bits, width, splits, pages; // a page has 2^bits tokens
    float scale;                           // of scores, for powers of two
};

// place is where position p of a row lies in a cache; what leads out of it leads to the last page.
__device__ size place(const call &c, int row, int p, int group) {
    int number = p >> c.bits < c.width ? c.table[row * c.width + (p >> c.bits)] : c.pages - 1;
    if ((unsigned)number >= (unsigned)c.pages) number = c.pages - 1;
    return (((size)number << c.bits) + (p & ((1 << c.bits) - 1))) * c.kv_heads * c.dim + group * c.dim;
}

// take adds N tokens of one head, with their keys and values, to a running softmax; lanes threads share a token.
template <int N>
__device__ __forceinline__ void take(const float *q, const float (*k)[EACH], const float (*v)[EACH], const bool *there, int lanes, float *top, float *weight, float *sum) {
    float score[N], now = *top, add;
#pragma unroll
    for (int a = 0; a < N; a++) {
        score[a] = 0;
#pragma unroll
        for (int i = 0; i < EACH; i++) score[a] += q[i] * k[a][i];
#pragma unroll
        for (int o = lanes / 2; o; o /= 2) score[a] += __shfl_xor_sync(0xffffffff, score[a], o);
        now = there[a] ? max(now, score[a]) : now;
    }
    const float old = power(*top - now);
    *weight *= old, *top = now;
#pragma unroll
    for (int i = 0; i < EACH; i++) sum[i] *= old;
#pragma unroll
    for (int a = 0; a < N; a++) {
        add = there[a] ? power(score[a] - now) : 0;
        *weight += add;
#pragma unroll
        for (int i = 0; i < EACH; i++) sum[i] += add * v[a][i];
    }
}

template <int LANES, int HEADS, int AHEAD>
__device__ void decode(const call &c) {
    const int groups = THREADS / LANES;
    __shared__ float sums[THREADS / LANES * HEADS * LANES * EACH], weights[THREADS / LANES * HEADS], most[THREADS / LANES * HEADS];
    __shared__ unsigned short fresh[(HEADS + 1) * LANES * EACH];
    const int lane = threadIdx.x % LANES, own = threadIdx.x / LANES, d = lane * EACH;
    const bool holds = d < c.dim;
    const int row = blockIdx.x, split = blockIdx.z, share = c.heads / c.kv_heads, chunks = (share + HEADS - 1) / HEADS;
    const int group = blockIdx.y / chunks, first = group * share + blockIdx.y % chunks * HEADS;
    const int count = min(HEADS, (group + 1) * share - first), held = c.held[row];
    const unsigned short *in = c.qkv + (size)row * (c.heads + 2 * c.kv_heads) * c.dim;

    // The token's query heads and key, rotated and rounded as in the cache.
#pragma unroll 1
    for (int i = threadIdx.x; i < (count + 1) * c.dim; i += THREADS) {
        const int h = i / c.dim, n = i % c.dim;
        fresh[h * LANES * EACH + n] = half(turned(in + (h < count ? first + h : c.heads + group) * c.dim, c.cos, c.sin, held, n, c.dim));
    }
    __syncthreads();
    float q[HEADS][EACH], sum[HEADS][EACH], weight[HEADS], top[HEADS];
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
        weight[h] = 0, top[h] = NONE;
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            q[h][i] = holds && h < count ? single(fresh[h * LANES * EACH + d + i]) * c.scale : 0;
            sum[h][i] = 0;
        }
    }

    const int each = (held + c.splits - 1) / c.splits, from = split * each, to = min(held, from + each);
#pragma unroll 1
    for (int base = from; base < to; base += groups * AHEAD) {
        eight keys[AHEAD], values[AHEAD];
        bool there[AHEAD];
#pragma unroll
        for (int a = 0; a < AHEAD; a++) {
            const int p = base + a * groups + own;
            there[a] = p < to;
            keys[a] = values[a] = eight{};
            if (there[a] && holds) {
                const size at = place(c, row, p, group) + d;
                keys[a] = *(const eight *)(c.keys + at);
                values[a] = *(const eight *)(c.values + at);
            }
        }
        float k[AHEAD][EACH], v[AHEAD][EACH];
#pragma unroll
        for (int a = 0; a < AHEAD; a++) unpack(keys[a], k[a]), unpack(values[a], v[a]);
#pragma unroll
        for (int h = 0; h < HEADS; h++) take<AHEAD>(q[h], k, v, there, LANES, &top[h], &weight[h], sum[h]);
    }

    if (split == c.splits - 1 && threadIdx.x < 32) { // the token itself, by the first group of the first warp
        float k[1][EACH], v[1][EACH];
        const bool there[1] = {own == 0};
        const unsigned short *key = fresh + count * LANES * EACH, *value = in + (c.heads + c.kv_heads + group) * c.dim;
        const size at = place(c, row, held, group) + d;
        const bool stores = holds && own == 0 && blockIdx.y % chunks == 0;
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            k[0][i] = holds ? single(key[d + i]) : 0, v[0][i] = holds ? single(value[d + i]) : 0;
            if (stores) c.keys[at + i] = key[d + i], c.values[at + i] = value[d + i];
        }
#pragma unroll
        for (int h = 0; h < HEADS; h++) take<1>(q[h], k, v, there, LANES, &top[h], &weight[h], sum[h]);
    }

#pragma unroll
    for (int h = 0; h < HEADS; h++) {
#pragma unroll
        for (int i = 0; i < EACH; i++) sums[(own * HEADS + h) * LANES * EACH + d + i] = sum[h][i];
        if (lane == 0) weights[own * HEADS + h] = weight[h], most[own * HEADS + h] = top[h];
    }
    __syncthreads();
#pragma unroll 1
    for (int i = threadIdx.x; i < count * c.dim; i += THREADS) {
        const int h = i / c.dim, n = i % c.dim;
        float largest = NONE, s = 0, w = 0;
#pragma unroll 1
        for (int g = 0; g < groups; g++) largest = max(largest, most[g * HEADS + h]);
#pragma unroll 1
        for (int g = 0; g < groups; g++) {
            const float factor = power(most[g * HEADS + h] - largest);
            s += factor * sums[(g * HEADS + h) * LANES * EACH + n], w += factor * weights[g * HEADS + h];
        }
        if (c.splits == 1) {
            c.out[((size)row * c.heads + first + h) * c.dim + n] = half(s / w);
            continue;
        }
        float *part = c.parts + (((size)row * c.heads + first + h) * c.splits + split) * (c.dim + 2);
        part[n] = s;
        if (n == 0) part[c.dim] = w, part[c.dim + 1] = largest;
    }
}

// merge adds up the splits of each head of each row.
extern "C" __global__ void merge(call c) {
    const size head = blockIdx.x;
    const float *parts = c.parts + head * c.splits * (c.dim + 2);
    float largest = NONE;
#pragma unroll 1
    for (int s = 0; s < c.splits; s++) largest = max(largest, parts[s * (c.dim + 2) + c.dim + 1]);
#pragma unroll 1
    for (int n = threadIdx.x; n < c.dim; n += THREADS) {
        float sum = 0, weight = 0;
#pragma unroll 1
        for (int s = 0; s < c.splits; s++) {
            const float *part = parts + s * (c.dim + 2), factor = power(part[c.dim + 1] - largest);
            sum += factor * part[n], weight += factor * part[c.dim];
        }
        c.out[head * c.dim + n] = half(sum / weight);
    }
}

#define KERNEL(lanes, heads, ahead)                                                                                    \
    extern "C" __global__ void __launch_bounds__(THREADS) decode_##lanes##_##heads(call c) { decode<lanes, heads, ahead>(c); }

KERNEL(8, 1, 4)
KERNEL(8, 2, 4)
KERNEL(8, 4, 4)
KERNEL(8, 8, 2)
KERNEL(16, 1, 4)
KERNEL(16, 2, 4)
KERNEL(16, 4, 4)
KERNEL(16, 8, 2)

// gating is what gate gets: rows of 2 width numbers, of which it makes rows of width. They are taken in pairs.
struct gating {
    const unsigned *in;
    unsigned *out;
    int width; // pairs
};

__device__ float gated(float gate, float up) { return gate / (1 + power(gate * -1.44269504f)) * up; }

extern "C" __global__ void gate(gating c) {
    const int at = blockIdx.y * THREADS + threadIdx.x;
    if (at >= c.width) return;
    const unsigned *in = c.in + (size)blockIdx.x * 2 * c.width + at;
    const unsigned gate = in[0], up = in[c.width];
    c.out[(size)blockIdx.x * c.width + at] = half(gated(low(gate), low(up))) | (unsigned)half(gated(high(gate), high(up))) << 16;
}

// choice is what best gets: rows of width numbers, for each of which it finds the place of the largest, the first of equals.
struct choice {
    const unsigned short *in;
    long long *out;
    int width;
};

#define MANY 1024 // threads of a block, which takes a row

__device__ void better(float *top, int *at, float other, int place) {
    if (other > *top || other == *top && place < *at) *top = other, *at = place;
}

// best_of_warp is the best of 32 threads.
__device__ void best_of_warp(float *top, int *at) {
#pragma unroll
    for (int o = 16; o; o /= 2) {
        const float other = __shfl_xor_sync(0xffffffff, *top, o);
        const int place = __shfl_xor_sync(0xffffffff, *at, o);
        better(top, at, other, place);
    }
}

extern "C" __global__ void __launch_bounds__(MANY) best(choice c) {
    __shared__ float tops[MANY / 32];
    __shared__ int places[MANY / 32];
    const unsigned short *in = c.in + (size)blockIdx.x * c.width;
    float top = NONE;
    int at = 0;
#pragma unroll 8
    for (int i = threadIdx.x; i < c.width; i += MANY) better(&top, &at, single(in[i]), i);
    best_of_warp(&top, &at);
    if (threadIdx.x % 32 == 0) tops[threadIdx.x / 32] = top, places[threadIdx.x / 32] = at;
    __syncthreads();
    if (threadIdx.x >= 32) return;
    top = tops[threadIdx.x], at = places[threadIdx.x];
    best_of_warp(&top, &at);
    if (threadIdx.x == 0) c.out[blockIdx.x] = at;
}
