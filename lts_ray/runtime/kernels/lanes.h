/* Some floats at a time: as many as a register of the CPU that this is compiled for holds. */
#ifndef LTS_LANES_H
#define LTS_LANES_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

#if defined(__AVX512F__)
enum { LANES = 16 };
#elif defined(__AVX2__)
enum { LANES = 8 };
#else
enum { LANES = 4 };
#endif
/* Matrices and the KV cache are laid out in sixteens on every CPU: so many vectors a sixteen. */
enum { PANEL = 16, PARTS = PANEL / LANES };

typedef float lanes __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t int_lanes __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

INLINE long rounded_up(long n, long unit) { return (n + unit - 1) / unit * unit; }

INLINE lanes load(const float *from) { return *(const lanes *)from; }
INLINE void store(float *to, lanes value) { *(lanes *)to = value; }

INLINE lanes spread(float value) { return value - (lanes){0}; }

INLINE lanes larger(lanes a, lanes b) {
    int_lanes which = a > b;
    return (lanes)((which & (int_lanes)a) | (~which & (int_lanes)b));
}

INLINE lanes smaller(lanes a, lanes b) { return -larger(-a, -b); }

INLINE float sum(lanes v) {
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++) v[i] += v[i + half];
    return v[0];
}

INLINE float largest(lanes v) {
    float most = v[0];
    for (int i = 1; i < LANES; i++) most = v[i] > most ? v[i] : most;
    return most;
}

/* e^x to about one unit in the last place: x = n ln 2 + r with |r| <= ln 2 / 2, e^r by a polynomial, 2^n by its bits. */
INLINE lanes exponential(lanes x) {
    const float rounder = 12582912.0f; /* 1.5 * 2^23: adding it leaves the nearest whole number in the low bits */
    x = larger(smaller(x, spread(88.0f)), spread(-87.0f));
    lanes shifted = x * 1.44269504088896341f + rounder;
    lanes n = shifted - rounder;
    lanes r = x - n * 0.693359375f; /* ln 2 in two parts, the first exact in a float */
    r = r + n * 2.12194440e-4f;
    lanes p = spread(1.0f / 5040);
    p = p * r + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r * r + r + 1.0f;
    int_lanes power = ((int_lanes)shifted - 0x4B400000 + 127) << 23;
    return p * (lanes)power;
}

INLINE lanes sigmoid(lanes x) { return 1.0f / (1.0f + exponential(-x)); }

#endif
