//go:build cgo && amd64 && (linux || darwin)

#include "kernel.h"

#include <immintrin.h>

#define TARGET TARGET_AVX2
enum { LANES = 8 };
typedef float vec __attribute__((vector_size(32), aligned(4), may_alias));
typedef int32_t ints __attribute__((vector_size(32), aligned(4), may_alias));

static inline TARGET vec widen(const char *p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)); }
static inline TARGET uint16_t narrow(float x) {
    x = x > 65504 ? 65504 : x < -65504 ? -65504 : x;
    return _mm_extract_epi16(_mm_cvtps_ph(_mm_set_ss(x), _MM_FROUND_TO_NEAREST_INT), 0);
}
static inline TARGET vec fma_(vec a, vec b, vec c) { return _mm256_fmadd_ps(a, b, c); }

#include "attention_rows.h"

const attention_kernels attention_avx2 = {append, attend};
