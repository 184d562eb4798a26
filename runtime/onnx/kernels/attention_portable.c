//go:build cgo && (linux || darwin)

// Attention for any processor.

#include <math.h>
#include <stdint.h>
#include <string.h>

#define TARGET
enum { LANES = 4 };
typedef float vec __attribute__((vector_size(16), aligned(4), may_alias));
typedef int32_t ints __attribute__((vector_size(16), aligned(4), may_alias));

static inline float number(uint16_t h) {
    uint32_t bits = (uint32_t)(h & 0x7fff) << 13;
    float v;
    memcpy(&v, &bits, sizeof v);
    return (h & 0x8000 ? -v : v) * 0x1p112f;
}

static inline vec widen(const char *p) {
    uint16_t h[LANES];
    memcpy(h, p, sizeof h);
    return (vec){number(h[0]), number(h[1]), number(h[2]), number(h[3])};
}

static inline uint16_t nearest(float x) {
    uint32_t bits, sign = signbit(x) ? 0x8000 : 0;
    float v = fabsf(x);
    if (v != v) return sign | 0x7e00;
    if (v >= 65504) return sign | 0x7bff;
    if (v < 0x1p-14f) return sign | (uint32_t)rintf(v * 0x1p24f);
    memcpy(&bits, &v, sizeof bits);
    bits -= 112u << 23;
    return sign | (bits + 0xfff + (bits >> 13 & 1)) >> 13;
}

static inline void narrow(vec x, uint16_t *to) {
    for (int i = 0; i < LANES; i++) to[i] = nearest(x[i]);
}

static inline vec fma_(vec a, vec b, vec c) {
    vec v;
    for (int i = 0; i < LANES; i++) v[i] = fmaf(a[i], b[i], c[i]);
    return v;
}

#include "attention_rows.h"

const attention_kernels attention_portable = {append, attend, ROWS};
