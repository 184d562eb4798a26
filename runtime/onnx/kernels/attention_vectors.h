// What kernels of attention do with vectors, for the file that includes this one: it defines vec, a vector of LANES
// floats; ints, as many integers; and TARGET.

#include "attention.h"

#include <math.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline)) TARGET
#define UNROLL _Pragma("GCC unroll 6")

INLINE vec splat(float x) { return x - (vec){0}; }
INLINE vec load(const float *p) { return *(const vec *)p; }
INLINE void store(float *p, vec v) { *(vec *)p = v; }
INLINE vec choose(ints mask, vec a, vec b) { return (vec)((mask & (ints)a) | (~mask & (ints)b)); }

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

typedef float four __attribute__((vector_size(16), aligned(4), may_alias));
typedef int32_t four_ints __attribute__((vector_size(16), aligned(4), may_alias));

INLINE four either(four a, four b, int largest) {
    if (!largest) return a + b;
    four_ints mask = b > a;
    return (four)((mask & (four_ints)b) | (~mask & (four_ints)a));
}

// fold brings PANEL numbers together by halves: to the largest, or to the sum.
INLINE float fold(const float *lane, int largest) {
    _Static_assert(PANEL == 16, "four vectors of four");
    const four *v = (const four *)lane;
    four all = either(either(v[0], v[2], largest), either(v[1], v[3], largest), largest);
    float a = all[0], b = all[1], c = all[2], d = all[3];
    if (!largest) return (a + c) + (b + d);
    a = c > a ? c : a, b = d > b ? d : b;
    return b > a ? b : a;
}
