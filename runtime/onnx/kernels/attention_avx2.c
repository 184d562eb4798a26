//go:build cgo && amd64 && (linux || darwin)

#include "kernel.h"

#include <immintrin.h>

#define TARGET TARGET_AVX2
enum { LANES = 8 };
typedef float vec __attribute__((vector_size(32), aligned(4), may_alias));
typedef int32_t ints __attribute__((vector_size(32), aligned(4), may_alias));

static inline TARGET vec widen(const char *p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)); }
static inline TARGET void narrow(vec x, uint16_t *to) { // keeps what is not a number
    __m256 v = _mm256_max_ps(_mm256_set1_ps(-65504), _mm256_min_ps(_mm256_set1_ps(65504), x));
    _mm_storeu_si128((__m128i *)to, _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}
static inline TARGET vec fma_(vec a, vec b, vec c) { return _mm256_fmadd_ps(a, b, c); }

#include "attention_rows.h"

const attention_kernels attention_avx2 = {append, attend, ROWS};
