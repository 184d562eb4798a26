//go:build cgo && amd64 && (linux || darwin)

#include "kernel.h"

#include <immintrin.h>

#define TARGET TARGET_AVX512
enum { LANES = 16 };
typedef float vec __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t ints __attribute__((vector_size(64), aligned(4), may_alias));

static inline TARGET vec widen(const char *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }
static inline TARGET void narrow(vec x, uint16_t *to) { // keeps what is not a number
    __m512 v = _mm512_max_ps(_mm512_set1_ps(-65504), _mm512_min_ps(_mm512_set1_ps(65504), x));
    _mm256_storeu_si256((__m256i *)to, _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}
static inline TARGET vec fma_(vec a, vec b, vec c) { return _mm512_fmadd_ps(a, b, c); }

#include "attention_rows.h"

const attention_kernels attention_avx512 = {append, attend, ROWS};
