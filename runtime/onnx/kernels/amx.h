// The processor's matrix instructions (AMX): eight tiles of 16 rows of 64 bytes.
#ifndef PELTON_AMX_H
#define PELTON_AMX_H

#include "bfloat.h"

#ifdef EMULATED
#define TARGET_AMX
#else
#include <immintrin.h>
#define TARGET_AMX __attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,amx-tile,amx-bf16")))
#endif

// begin_tiles and end_tiles stand around the use of tiles on a thread.
static inline TARGET_AMX void begin_tiles(void) {
    static const struct {
        uint8_t palette, start, zero[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } shapes = {.palette = 1, .bytes = {64, 64, 64, 64, 64, 64, 64, 64}, .rows = {16, 16, 16, 16, 16, 16, 16, 16}};
    _Static_assert(sizeof shapes == 64, "a configuration of tiles has 64 bytes");
#ifdef EMULATED
    _tile_loadconfig(&shapes);
#else
    __asm__ volatile("ldtilecfg %0" ::"m"(shapes)); // GCC 12's intrinsic lets the compiler leave most of it unwritten
#endif
}

static inline TARGET_AMX void end_tiles(void) { _tile_release(); }

// The compiler does not know that loads and stores of tiles use memory.
#define MEMORY_USED __asm__ volatile("" ::: "memory")

// briefly makes bfloat16 of 32 numbers: as bfloat_of does.
static inline TARGET_AMX __m512i briefly(__m512 low, __m512 high) {
    const __m512 least = _mm512_set1_ps(LEAST);
    low = _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(_mm512_abs_ps(low), least, _CMP_NLT_UQ), low);
    high = _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(_mm512_abs_ps(high), least, _CMP_NLT_UQ), high);
    return (__m512i)_mm512_cvtne2ps_pbh(high, low);
}

#endif
