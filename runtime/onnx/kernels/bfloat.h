// Numbers of bfloat16, the upper halves of those of single precision.
#ifndef PELTON_BFLOAT_H
#define PELTON_BFLOAT_H

#include <math.h>
#include <stdint.h>
#include <string.h>

// Activations below LEAST become 0: no product or sum of others is so small that processors would differ about it.
#define LEAST 0x1p-50f

static inline uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

// bfloat_of is the nearest to x, of two the even one.
static inline uint16_t bfloat_of(float x) {
    const uint32_t bits = bits_of(x);
    return fabsf(x) < LEAST ? 0 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

// cut_off is x without its lower half.
static inline uint16_t cut_off(float x) { return bits_of(x) >> 16; }

static inline float bfloat_number(uint16_t b) {
    const uint32_t bits = (uint32_t)b << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

#endif
