/* Rows times a matrix in 8 or 4 bits: products of whole numbers, exact, one scale for 32 inputs of an output.

   A panel is sixteen outputs, in groups of 32 inputs. A group's codes lie in two planes, of the upper four bits and of
   the lower four: the upper plane alone is the matrix in 4 bits. A plane has four slabs a group, 64 bytes each: byte
   4 o + j of slab s holds, of output o, input 8 s + j in its low half and input 8 s + 4 + j in its high half.

   A row's inputs are rounded to 8 bits a group. A group's sum does not depend on the order, and the groups are added in
   order: a row's result does not depend on its company, nor on the CPU but for how that adds floats. */
#ifndef LTS_ROUNDED_H
#define LTS_ROUNDED_H

#include "matmul.h"
#include "step.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

enum { SLABS = 4, SLAB_BYTES = 4 * PANEL, GROUP_BYTES = SLABS * SLAB_BYTES };
enum { UPPER_ONLY = 128, BOTH_PLANES = 136 }; /* what codes are counted from: see quantised_matrix.py */

#if defined(__AVX512VNNI__) || (defined(__AVXVNNI__) && !defined(__AVX512F__))
#define HAS_DOT 1
#else
#define HAS_DOT 0
#endif
/* As many as the registers allow: a sum of whole numbers and one of floats for each row, two of the former without a
   product of bytes that adds up to 32 bits. */
#if defined(__AVX512F__)
enum { ROUNDED_ROWS = HAS_DOT ? 8 : 6 };
#else
enum { ROUNDED_ROWS = LANES == 8 ? 4 : 1 };
#endif

typedef uint8_t bytes __attribute__((vector_size(4 * LANES), aligned(1), may_alias));
typedef uint16_t shorts __attribute__((vector_size(4 * LANES), aligned(1), may_alias));
typedef int32_t quad __attribute__((aligned(1), may_alias)); /* four bytes, read at once */
typedef int8_t few_bytes __attribute__((vector_size(LANES), aligned(1), may_alias));

typedef struct {
    const uint8_t *upper, *lower; /* lower: NULL in 4 bits */
    const uint16_t *scales;
} panel_codes;

/* A float of a sixteen-bit float, whose bits are a float's with an exponent that is 112 too small. */
INLINE float scale_of(uint16_t half) {
    const uint32_t bits = (uint32_t)(half & 0x7FFF) << 13;
    float scale;
    memcpy(&scale, &bits, sizeof scale);
    return half >> 15 ? scale * -0x1p112f : scale * 0x1p112f;
}

/* By the CPU's own instruction where it has one: the smallest numbers are slow to multiply. */
INLINE lanes load_scales(const uint16_t *from) {
#if defined(__AVX512F__)
    return (lanes)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)from));
#elif defined(__AVX2__)
    return (lanes)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)from));
#else
    lanes scales;
    for (int i = 0; i < LANES; i++) scales[i] = scale_of(from[i]);
    return scales;
#endif
}

INLINE bytes low_half(bytes b) { return b & 15; }

INLINE bytes high_half(bytes b) { return (bytes)((shorts)b >> 4) & 15; }

/* Bits 4 to 7 of each byte of one, bits 0 to 3 of the other. */
INLINE bytes joined(bytes upper, bytes lower) {
#if defined(__AVX512F__)
    return (bytes)_mm512_ternarylogic_epi32(_mm512_set1_epi8((char)0xF0), (__m512i)upper, (__m512i)lower, 0xCA);
#else
    return (upper & 0xF0) | (lower & 15);
#endif
}

/* What one row has added up of a group. */
typedef struct {
    int_lanes whole; /* of the codes; without a dot product of bytes nothing before `total` */
    shorts upper, lower;
} group_sum;

#if HAS_DOT
INLINE int_lanes dot(int_lanes sum, bytes codes, int32_t four) {
#if defined(__AVX512F__)
    return (int_lanes)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)codes, _mm512_set1_epi32(four));
#else
    return (int_lanes)_mm256_dpbusd_avx_epi32((__m256i)sum, (__m256i)codes, _mm256_set1_epi32(four));
#endif
}
#elif defined(__AVX2__)
/* Sixteen bits hold eight such sums: 8 * 2 * 15 * 127 < 2^15. */
INLINE shorts pairs(bytes nibbles, int32_t four) {
#if defined(__AVX512F__)
    return (shorts)_mm512_maddubs_epi16((__m512i)nibbles, _mm512_set1_epi32(four));
#else
    return (shorts)_mm256_maddubs_epi16((__m256i)nibbles, _mm256_set1_epi32(four));
#endif
}

INLINE int_lanes widened(shorts sums, int16_t factor) {
#if defined(__AVX512F__)
    return (int_lanes)_mm512_madd_epi16((__m512i)sums, _mm512_set1_epi16(factor));
#else
    return (int_lanes)_mm256_madd_epi16((__m256i)sums, _mm256_set1_epi16(factor));
#endif
}
#else
INLINE int_lanes dot(int_lanes sum, bytes codes, int32_t four) {
    for (int j = 0; j < 4; j++) sum += (((int_lanes)codes >> 8 * j) & 255) * (int32_t)(int8_t)(four >> 8 * j);
    return sum;
}
#endif

INLINE void add_slab(const int rows, const int fine, bytes upper, bytes lower, const group *x, long ld, int slab,
                     group_sum *sums) {
#if HAS_DOT || !defined(__AVX2__)
    const bytes shifted = (bytes)((shorts)upper << 4);
    bytes first = shifted & 0xF0, second = upper & 0xF0;
    if (fine) {
        first = joined(shifted, lower);
        second = joined(upper, (bytes)((shorts)lower >> 4));
    }
#else
    const bytes first = low_half(upper), second = high_half(upper), third = low_half(lower), fourth = high_half(lower);
#endif
    UNROLLED for (int r = 0; r < rows; r++) {
        const quad *four = (const quad *)(x[r * ld].codes + 8 * slab);
#if HAS_DOT || !defined(__AVX2__)
        sums[r].whole = dot(dot(sums[r].whole, first, four[0]), second, four[1]);
#else
        sums[r].upper += pairs(first, four[0]) + pairs(second, four[1]);
        if (fine) sums[r].lower += pairs(third, four[0]) + pairs(fourth, four[1]);
#endif
    }
}

INLINE int_lanes total(const int fine, const group_sum *sum) {
    int_lanes whole = sum->whole;
#if !HAS_DOT && defined(__AVX2__)
    whole += widened(sum->upper, 16);
    if (fine) whole += widened(sum->lower, 1);
#else
    (void)fine;
#endif
    return whole;
}

/* Bytes of a plane: what is read that much later is asked for, since memory is slow to guess that two planes go on. */
enum { AHEAD = 12 * GROUP_BYTES };

INLINE void fetch(const uint8_t *upper, const uint8_t *lower) {
    for (int slab = 0; slab < SLABS; slab++) {
        __builtin_prefetch(upper + slab * SLAB_BYTES);
        if (lower) __builtin_prefetch(lower + slab * SLAB_BYTES);
    }
}

/* Add groups from ... to-1 of a panel to the sums, a row's PIECE_VECTORS apart. x: the first row, ld groups from row to row. */
INLINE void rounded_tile(const int rows, const int fine, const group *x, long ld, const panel_codes *w, long from,
                         long to, lanes *result) {
    UNROLLED for (int part = 0; part < PARTS; part++) {
        lanes sums[ROUNDED_ROWS];
        UNROLLED for (int r = 0; r < rows; r++) sums[r] = result[r * PIECE_VECTORS + part];
        for (long g = from; g < to; g++) {
            const uint8_t *upper = w->upper + g * GROUP_BYTES + part * 4 * LANES;
            const uint8_t *lower = w->lower + (fine ? g * GROUP_BYTES + part * 4 * LANES : 0);
            if (part == 0) fetch(upper + AHEAD, fine ? lower + AHEAD : NULL);
            group_sum of_group[ROUNDED_ROWS];
            UNROLLED for (int r = 0; r < rows; r++)
                of_group[r] = (group_sum){(int_lanes){0} + x[r * ld + g].start, (shorts){0}, (shorts){0}};
            UNROLLED for (int slab = 0; slab < SLABS; slab++) {
                const bytes coarse = *(const bytes *)(upper + slab * SLAB_BYTES);
                const bytes rest = fine ? *(const bytes *)(lower + slab * SLAB_BYTES) : (bytes){0};
                add_slab(rows, fine, coarse, rest, x + g, ld, slab, of_group);
            }
            const lanes scales = load_scales(w->scales + g * PANEL + part * LANES);
            UNROLLED for (int r = 0; r < rows; r++) {
                const lanes whole = __builtin_convertvector(total(fine, of_group + r), lanes);
                sums[r] += whole * (scales * x[r * ld + g].scale);
            }
        }
        UNROLLED for (int r = 0; r < rows; r++) result[r * PIECE_VECTORS + part] = sums[r];
    }
}

/* `rounded_tile` for a number of rows that is known only now. */
static void any_rounded_tile(int rows, const group *x, long ld, const panel_codes *w, long from, long to,
                             lanes *sums) {
#define CASE(n)                                                 \
    case n:                                                     \
        if (n > ROUNDED_ROWS) __builtin_unreachable();          \
        if (w->lower)                                           \
            rounded_tile(n, 1, x, ld, w, from, to, sums);       \
        else                                                    \
            rounded_tile(n, 0, x, ld, w, from, to, sums);       \
        break;
    switch (rows) {
        CASE(1)
#if defined(__AVX2__)
        CASE(2)
        CASE(3)
        CASE(4)
#endif
#if defined(__AVX512F__)
        CASE(5)
        CASE(6)
        CASE(7)
        CASE(8)
#endif
    }
#undef CASE
}

/* A group's 32 floats in 8 bits; middle: what the codes that they meet are counted from. */
INLINE void round_group(const float *x, int middle, group *to) {
    lanes most = spread(0.0f);
    for (int i = 0; i < GROUP; i += LANES) most = larger(most, larger(load(x + i), -load(x + i)));
    const float top = largest(most), inverse = top > 0.0f ? 127.0f / top : 0.0f;
    int_lanes sums = {0};
    for (int i = 0; i < GROUP; i += LANES) {
        const int_lanes code = (int_lanes)(load(x + i) * inverse + 12582912.0f) - 0x4B400000; /* see exponential() */
        sums += code;
        *(few_bytes *)(to->codes + i) = __builtin_convertvector(code, few_bytes);
    }
    int32_t all = 0;
    for (int i = 0; i < LANES; i++) all += sums[i];
    to->scale = top / 127.0f;
    to->start = -middle * all;
}

/* n floats, and 0 from there to the end of the last group. */
INLINE void round_row(const float *x, long n, int middle, group *to) {
    for (; n >= GROUP; n -= GROUP, x += GROUP) round_group(x, middle, to++);
    if (n > 0) {
        float rest[GROUP] = {0};
        memcpy(rest, x, sizeof(float) * (size_t)n);
        round_group(rest, middle, to);
    }
}

#endif
