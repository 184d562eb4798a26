//go:build cgo && amd64 && linux

// Attention with a cache of bfloat16 by the processor's matrix instructions (AMX).

#include "kernel.h"

#if __has_include(<amxtileintrin.h>) || defined(EMULATED)

#include "amx.h"

#define TARGET TARGET_AMX
enum { LANES = 16 };
typedef float vec __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t ints __attribute__((vector_size(64), aligned(4), may_alias));

static inline TARGET vec fma_(vec a, vec b, vec c) { return _mm512_fmadd_ps(a, b, c); }
static inline TARGET vec larger(vec a, vec b) { return _mm512_max_ps(a, b); }

#include "attention_bfloats.h"

static inline TARGET void begin(void) { begin_tiles(); }
static inline TARGET void end(void) { end_tiles(); }

static inline TARGET void brief(vec low, vec high, uint16_t to[STEP]) { _mm512_storeu_si512(to, briefly(low, high)); }
static inline TARGET void pack(vec low, vec high, uint16_t to[STEP]) { _mm512_storeu_si512(to, (__m512i)_mm512_cvtne2ps_pbh(high, low)); }

// Tiles, of whose numbers the compiler makes names: sums of up to three tiles of rows, rows, and what is cached.
#define ROWS_TILE 6
#define CACHED_TILE 7

#define each_tile(what) what(0) what(1) what(2)
#define prepare(t)                                                                              \
    if (a.tiles > t && go_on) _tile_loadd(t, c.at + t * TILE_ROWS * c.stride, 4 * c.stride); \
    if (a.tiles > t && !go_on) _tile_zero(t);
#define add(t)                                                                          \
    if (a.tiles > t) {                                                                  \
        _tile_loadd(ROWS_TILE, a.at + t * TILE_ROWS * a.stride + i * STEP, 2 * a.stride); \
        _tile_dpbf16ps(t, ROWS_TILE, CACHED_TILE);                                      \
    }
#define keep(t) \
    if (a.tiles > t) _tile_stored(t, c.at + t * TILE_ROWS * c.stride, 4 * c.stride);

static inline TARGET void products(matrix c, int go_on, rows a, cached b, size_t steps) {
    _Static_assert(TILES == 3, "each_tile");
    MEMORY_USED;
    each_tile(prepare)
    for (size_t i = 0; i < steps; i++) {
        _tile_loadd(CACHED_TILE, b.at + i * STEP / 2 * b.stride, 2 * b.stride);
        each_tile(add)
    }
    each_tile(keep)
    MEMORY_USED;
}

const attention_kernels attention_amx = {append, attend, BRIEF_ROWS};

#else

#include "attention.h"

const attention_kernels attention_amx = {0};

#endif
