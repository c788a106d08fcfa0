/* What is done to one row alone: embedding, norms, turning queries and keys, activations. */
#ifndef LTS_ROW_WORK_H
#define LTS_ROW_WORK_H

#include "rounded.h"
#include "step.h"

INLINE long model_stride(const model *m) { return rounded_up(m->d_model, 2 * PANEL); }

/* Of one output of a packed matrix its weight for input i, in 8 bits where it is a whole number. */
INLINE float weight_at(const matrix *w, int precision, long n_in, long output, long i) {
    const long panel = output / PANEL, place = output % PANEL;
    if (precision < INT8) {
        const long at = (panel * n_in + i) * PANEL + place;
        if (precision == FLOAT32) return w->plain[at];
        const uint32_t bits = (uint32_t)w->half[at] << 16;
        float weight;
        memcpy(&weight, &bits, sizeof weight);
        return weight;
    }
    const long group = panel * rounded_up(n_in, GROUP) / GROUP + i / GROUP, within = i % GROUP;
    const long at = group * GROUP_BYTES + within / 8 * SLAB_BYTES + 4 * place + within % 4;
    const int shift = within % 8 < 4 ? 0 : 4;
    const int code = (w->upper[at] >> shift & 15) << 4 | (w->lower[at] >> shift & 15);
    return (float)(code - BOTH_PLANES) * scale_of(w->scales[group * PANEL + place]);
}

INLINE void embed(const model *m, const rows *b, long row, float *x) {
    int precision = FLOAT32;
    while (row >= b->starts[precision + 1]) precision++;
    const float *position = m->positions ? m->positions + b->places[row] * m->d_model : NULL;
    for (long i = 0; i < m->d_model; i++)
        x[i] = weight_at(&m->embedding, precision, m->d_model, b->tokens[row], i) + (position ? position[i] : 0.0f);
    for (long i = m->d_model; i < model_stride(m); i++) x[i] = 0.0f;
}

/* Sum of (x - center)^2 over n values. */
INLINE float squares(const float *x, long n, float center) {
    lanes total = spread(0.0f);
    long i = 0;
    for (; i + LANES <= n; i += LANES) {
        lanes d = load(x + i) - center;
        total += d * d;
    }
    float rest = 0.0f;
    for (; i < n; i++) rest += (x[i] - center) * (x[i] - center);
    return sum(total) + rest;
}

INLINE float mean(const float *x, long n) {
    double total = 0.0;
    for (long i = 0; i < n; i++) total += x[i];
    return (float)(total / (double)n);
}

/* Over the row's own n dimensions; y is 0 from there to `used`: a product may then run over all of these. What stands
   past n in x is never read. */
INLINE void normalise(const model *m, const float *x, long n, const float *weight, const float *bias, float *y,
                      long used) {
    const float center = m->layer_norm ? mean(x, n) : 0.0f;
    const float scale = 1.0f / sqrtf(squares(x, n, center) / (float)n + (float)m->eps);
    for (long i = 0; i < n; i++) y[i] = (x[i] - center) * scale * weight[i] + (bias ? bias[i] : 0.0f);
    for (long i = n; i < used; i++) y[i] = 0.0f;
}

/* Normalise (where the family does) and turn the heads of one row, in place. */
INLINE void turn(const model *m, float *heads, long n_head, const float *norm, int32_t place) {
    const long d = m->d_head, half = d / 2;
    for (float *x = heads; x < heads + n_head * d; x += d) {
        if (norm) {
            const float scale = 1.0f / sqrtf(squares(x, d, 0.0f) / (float)d + (float)m->eps);
            for (long i = 0; i < d; i++) x[i] = x[i] * scale * norm[i];
        }
        if (!m->cosines) continue;
        const float *cosines = m->cosines + place * d, *sines = m->sines + place * d;
        for (long i = 0; i < half; i++) {
            const float first = x[i], second = x[i + half];
            x[i] = first * cosines[i] - second * sines[i];
            x[i + half] = second * cosines[i + half] + first * sines[i + half];
        }
    }
}

INLINE lanes activated(int64_t activation, lanes x) {
    switch (activation) {
        case SILU:
            return x * sigmoid(x);
        case GELU_TANH: /* (1 + tanh u) / 2 = sigmoid(2 u) */
            return x * sigmoid(2.0f * 0.7978845608028654f * (x + 0.044715f * x * x * x));
        case RELU:
            return larger(x, spread(0.0f));
        default:
            for (int i = 0; i < LANES; i++) x[i] *= 0.5f * (1.0f + erff(x[i] * 0.7071067811865476f));
            return x;
    }
}

#endif
