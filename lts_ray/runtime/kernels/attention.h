/* Attention of one row, for the query heads that share one head of keys, over the blocks of its sequence. */
#ifndef LTS_ATTENTION_H
#define LTS_ATTENTION_H

#include "matmul.h"
#include "step.h"

enum { HEADS_AT_ONCE = LANES == 4 ? 2 : MOST_HEADS_AT_ONCE, CHUNKS_AT_ONCE = LANES == 16 ? 4 : 2 };

typedef struct {
    const void *keys, *values; /* of this layer and head of keys, in block 0: floats, or their upper halves */
    const int32_t *blocks;
    long stride; /* numbers from block to block */
    long d_head, d_value, n;       /* n: places that the row sees */
    float scale;
} view;

INLINE lanes load_cached(const int half, const void *from, long at) {
    return half ? load_half((const uint16_t *)from + at) : load((const float *)from + at);
}

/* Scores of `heads` queries with `count` blocks' keys. */
INLINE void score(const int heads, const int count, const int half, const view *s, const float *q, long block,
                  float *scores, long ld) {
    lanes sums[2 * HEADS_AT_ONCE][PARTS];
    UNROLLED for (int i = 0; i < heads * count; i++) UNROLLED for (int p = 0; p < PARTS; p++) sums[i][p] = spread(0.0f);
    long keys[2];
    UNROLLED for (int b = 0; b < count; b++) keys[b] = s->blocks[block + b] * s->stride;
    for (long d = 0; d < s->d_head; d++)
        UNROLLED for (int b = 0; b < count; b++) UNROLLED for (int p = 0; p < PARTS; p++) {
            lanes key = load_cached(half, s->keys, keys[b] + d * PANEL + p * LANES);
            UNROLLED for (int h = 0; h < heads; h++) sums[b * heads + h][p] += q[h * s->d_head + d] * key;
        }
    UNROLLED for (int b = 0; b < count; b++) UNROLLED for (int h = 0; h < heads; h++)
        UNROLLED for (int p = 0; p < PARTS; p++)
            store(scores + h * ld + (block + b) * PANEL + p * LANES, sums[b * heads + h][p] * s->scale);
}

/* Scores to weights that are not yet divided by their sum, which is returned. */
INLINE float weigh(float *scores, long n) {
    const long end = rounded_up(n, PANEL);
    for (long i = n; i < end; i++) scores[i] = -INFINITY;
    lanes most = load(scores);
    for (long i = LANES; i < end; i += LANES) most = larger(most, load(scores + i));
    const float top = largest(most);
    for (long i = 0; i < end; i += LANES) store(scores + i, exponential(load(scores + i) - top));
    for (long i = n; i < end; i++) scores[i] = 0.0f;
    lanes total = spread(0.0f);
    for (long i = 0; i < end; i += LANES) total += load(scores + i);
    return sum(total);
}

/* Dimensions at ... at + chunks * LANES - 1 of the weighted sum of values. */
INLINE void mix(const int heads, const int chunks, const int half, const view *s, const float *weights, long ld,
                const float *factor, long at, float *y) {
    lanes sums[HEADS_AT_ONCE][CHUNKS_AT_ONCE];
    UNROLLED for (int h = 0; h < heads; h++) UNROLLED for (int c = 0; c < chunks; c++) sums[h][c] = spread(0.0f);
    for (long first = 0; first < s->n; first += PANEL) {
        long value = s->blocks[first / PANEL] * s->stride + at;
        const long stop = first + PANEL < s->n ? first + PANEL : s->n;
        for (long t = first; t < stop; t++, value += s->d_value) {
            lanes part[CHUNKS_AT_ONCE];
            UNROLLED for (int c = 0; c < chunks; c++) part[c] = load_cached(half, s->values, value + c * LANES);
            UNROLLED for (int h = 0; h < heads; h++) UNROLLED for (int c = 0; c < chunks; c++)
                sums[h][c] += weights[h * ld + t] * part[c];
        }
    }
    UNROLLED for (int h = 0; h < heads; h++) UNROLLED for (int c = 0; c < chunks; c++) {
        lanes result = sums[h][c] * factor[h];
        const long from = at + c * LANES, left = s->d_head - from;
        if (left > 0) memcpy(y + h * s->d_head + from, &result, sizeof(float) * (size_t)(left < LANES ? left : LANES));
    }
}

/* q, y: [heads, d_head]. scores: room for heads * ld floats, ld a multiple of sixteen that is at least n. */
INLINE void attend(const int heads, const int half, const view *s, const float *q, float *scores, long ld, float *y) {
    const long blocks = (s->n + PANEL - 1) / PANEL;
    long block = 0;
    for (; block + 2 <= blocks; block += 2) score(heads, 2, half, s, q, block, scores, ld);
    if (block < blocks) score(heads, 1, half, s, q, block, scores, ld);
    float factor[HEADS_AT_ONCE];
    for (int h = 0; h < heads; h++) factor[h] = 1.0f / weigh(scores + h * ld, s->n);
    long at = 0;
    for (; at + CHUNKS_AT_ONCE * LANES <= s->d_value; at += CHUNKS_AT_ONCE * LANES)
        mix(heads, CHUNKS_AT_ONCE, half, s, scores, ld, factor, at, y);
    for (; at < s->d_value; at += LANES) mix(heads, 1, half, s, scores, ld, factor, at, y);
}

INLINE void any_attend(long heads, const int half, const view *s, const float *q, float *scores, long ld, float *y) {
    for (; heads >= HEADS_AT_ONCE; heads -= HEADS_AT_ONCE) {
        attend(HEADS_AT_ONCE, half, s, q, scores, ld, y);
        q += HEADS_AT_ONCE * s->d_head;
        y += HEADS_AT_ONCE * s->d_head;
    }
    switch (heads) {
        case 1:
            attend(1, half, s, q, scores, ld, y);
            break;
        case 2:
            attend(HEADS_AT_ONCE > 2 ? 2 : 1, half, s, q, scores, ld, y);
            break;
        case 3:
            attend(HEADS_AT_ONCE > 3 ? 3 : 1, half, s, q, scores, ld, y);
            break;
    }
}

#endif
