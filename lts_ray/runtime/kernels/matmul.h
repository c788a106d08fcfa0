/* Rows times a matrix: a few rows against every weight that is read.

   A matrix [n_out, n_in] is packed in panels of sixteen outputs: panel p holds, for input k, the weights of outputs
   16p ... 16p+15 side by side. A tile keeps rows x panels sums in registers and reads each weight once for all its
   rows. Each sum is taken over k in order, one multiply-add at a time, whatever else is in the tile: a row's result
   does not depend on its company. */
#ifndef LTS_MATMUL_H
#define LTS_MATMUL_H

#include "lanes.h"

/* As large as the registers allow: 24 sums of 32 registers with AVX-512, 12 of 16 with AVX2. */
#if defined(__AVX512F__)
enum { TILE_PANELS = 4, TILE_ROWS = 6 };
#else
enum { TILE_PANELS = 2, TILE_ROWS = LANES == 8 ? 3 : 1 };
#endif
/* A piece of a matrix, which a thread takes, is PIECE_PANELS or, the last one, LEAST_PANELS. */
enum { LEAST_PANELS = 2, PIECE_PANELS = 4, TILE_VECTORS = TILE_PANELS * PARTS, PIECE_VECTORS = PIECE_PANELS * PARTS };
enum { MOST_ROWS = 8 }; /* of a tile of any kind */

#if defined(__clang__)
#define UNROLLED _Pragma("unroll")
#else
#define UNROLLED _Pragma("GCC unroll 16")
#endif

typedef lanes piece_sums[MOST_ROWS][PIECE_VECTORS];

/* Weights side by side, as floats or as their upper halves. */
typedef struct {
    const float *plain; /* NULL: in halves */
    const uint16_t *half;
} panel_floats;

typedef uint16_t halves __attribute__((vector_size(2 * LANES), aligned(2), may_alias));

INLINE lanes load_half(const uint16_t *from) {
    return (lanes)(__builtin_convertvector(*(const halves *)from, int_lanes) << 16);
}

/* The nearest that has no lower half. */
INLINE uint16_t to_half(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return (uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

INLINE lanes load_weights(const int half, const panel_floats *w, long at) {
    return half ? load_half(w->half + at) : load(w->plain + at);
}

/* Add inputs from ... to-1 to the sums, a row's PIECE_VECTORS apart. x: the first row, ld floats from row to row. w: the
   first panel, `stride` weights from panel to panel. */
INLINE void tile(const int rows, const int panels, const int half, const float *x, long ld, const panel_floats *w,
                 long stride, long from, long to, lanes *total) {
    const int vectors = panels * PARTS;
    lanes sums[TILE_ROWS][TILE_VECTORS];
    UNROLLED for (int r = 0; r < rows; r++) UNROLLED for (int v = 0; v < vectors; v++) sums[r][v] = total[r * PIECE_VECTORS + v];
    for (long k = from; k < to; k++) {
        lanes weights[TILE_VECTORS];
        UNROLLED for (int v = 0; v < vectors; v++)
            weights[v] = load_weights(half, w, v / PARTS * stride + k * PANEL + v % PARTS * LANES);
        UNROLLED for (int r = 0; r < rows; r++) {
            lanes input = spread(x[r * ld + k]);
            UNROLLED for (int v = 0; v < vectors; v++) sums[r][v] += input * weights[v];
        }
    }
    UNROLLED for (int r = 0; r < rows; r++) UNROLLED for (int v = 0; v < vectors; v++) total[r * PIECE_VECTORS + v] = sums[r][v];
}

/* `tile` for a number of rows, and of panels (TILE_PANELS or LEAST_PANELS), that is known only now. */
static void any_tile(int rows, int panels, const float *x, long ld, const panel_floats *w, long stride, long from,
                     long to, lanes *total) {
#define CASE(n)                                                                    \
    case n:                                                                        \
        if (n > TILE_ROWS) __builtin_unreachable();                                \
        if (panels == TILE_PANELS && w->plain)                                     \
            tile(n, TILE_PANELS, 0, x, ld, w, stride, from, to, total);            \
        else if (panels == TILE_PANELS)                                            \
            tile(n, TILE_PANELS, 1, x, ld, w, stride, from, to, total);            \
        else if (w->plain)                                                         \
            tile(n, LEAST_PANELS, 0, x, ld, w, stride, from, to, total);           \
        else                                                                       \
            tile(n, LEAST_PANELS, 1, x, ld, w, stride, from, to, total);           \
        break;
    switch (rows) {
        CASE(1)
#if defined(__AVX2__)
        CASE(2)
        CASE(3)
#endif
#if defined(__AVX512F__)
        CASE(4)
        CASE(5)
        CASE(6)
#endif
    }
#undef CASE
}

/* How many rows of `left` the next tile, of at most `most`, takes: as equal shares as the fewest tiles allow. */
INLINE long next_rows(long left, long most) {
    long tiles = (left + most - 1) / most;
    return (left + tiles - 1) / tiles;
}

#endif
