/* What a step works on: the packed model, the rows of the step and room for what is in between. */
#ifndef LTS_STEP_H
#define LTS_STEP_H

#include <stdatomic.h>
#include <stdint.h>

#include "team.h"

/* What a row's matrices are kept in, in the order of precision.py. From INT8 on its inputs are rounded, too. */
enum { FLOAT32, BFLOAT16, INT8, INT4, PRECISIONS };

/* Packed in panels (see matmul.h, rounded.h) at the precisions that are served; what is not is NULL. */
typedef struct {
    const float *plain;
    const uint16_t *half;
    const uint8_t *upper, *lower;
    const uint16_t *scales;
} matrix;

/* Biases and norms are padded like their matrix's outputs. A pointer is NULL where the family has no such part. */
typedef struct {
    matrix qkv, out, inward, down;
    const float *attention_norm, *attention_norm_bias, *qkv_bias, *q_norm, *k_norm, *out_bias;
    const float *ffn_norm, *ffn_norm_bias, *inward_bias, *down_bias;
    void *keys;   /* of block 0: [n_kv_head, d_head, 16]: a block's scores are sums of vectors */
    void *values; /* [n_kv_head, 16, d_head padded to sixteens] */
    int64_t width; /* neurons */
} layer;

typedef struct {
    int64_t n_layer, d_model, n_head, n_kv_head, d_head, vocab_size, context_length;
    int64_t activation, gated, layer_norm, fan_in; /* fan_in: floats from row to row of the FFN's inner values */
    int64_t block_stride; /* numbers from block to block: a block holds all layers, so that few blocks touch few pages */
    int64_t half_cache; /* whether keys and values are kept as the upper halves of floats */
    double eps;
    const layer *layers;
    matrix head, embedding; /* the same where they are tied; for rows in 4 bits, too, they are in 8 */
    const float *positions, *cosines, *sines; /* learned, or angles [context_length, d_head] */
    const float *norm, *norm_bias;
} model;

enum { SILU, GELU, GELU_TANH, RELU };

/* Rows that every thread normalises for itself; and heads whose scores a thread holds at a time, on any CPU. */
enum { FEW_ROWS = 8, MOST_HEADS_AT_ONCE = 4 };

/* 32 inputs of a row in 8 bits. */
enum { GROUP = 32 };

typedef struct {
    int8_t codes[GROUP];
    float scale;
    int32_t start; /* what a sum of products with weights' codes begins at, as these are counted from 0 */
} group;

/* rows: one for each token; those of a precision are together: of precision p rows starts[p] ... starts[p + 1] - 1, of
   those that want logits logit_starts[p] ... in the order of `wants`; targets: which row of logits each of these gets. normed: of all rows; own: of FEW_ROWS rows for each thread, which no other writes, so
   that a thread that is far behind spoils nothing; rounded and own_rounded: the same rows, and the heads' output, as
   groups, where their precision has them so. apart: whether each is of another sequence. table: where, in
   `blocks`, the row's sequence begins. order: for each layer, the rows from the widest to the narrowest; widths: of the
   rows in that order.

   submodels: of each row. dims: how much of d_model each submodel has; heads: how many heads, [submodels, n_layer].
   d_used: the most of d_model that a row has; most_heads: of each layer. */
typedef struct {
    int64_t rows, logit_rows, apart, d_used;
    int64_t starts[PRECISIONS + 1], logit_starts[PRECISIONS + 1];
    const int32_t *tokens, *places, *table, *blocks, *wants, *targets, *submodels, *dims, *heads, *most_heads;
    int32_t *order, *widths;
    float *x, *normed, *own, *qkv, *mixed, *inner, *scores, *logits;
    group *rounded, *own_rounded, *inner_rounded;
    int64_t rounded_size; /* groups from row to row of the first two */
    int64_t scores_size; /* floats for each thread */
    phase *phases;
} rows;

typedef struct {
    const model *model;
    const rows *rows;
} step;

#endif
