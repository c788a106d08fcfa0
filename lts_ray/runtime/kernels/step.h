/* What a step works on: the packed model, the rows of the step and room for what is in between. */
#ifndef LTS_STEP_H
#define LTS_STEP_H

#include <stdatomic.h>
#include <stdint.h>

#include "team.h"

/* Matrices are packed in panels (see matmul.h); biases and norms are padded like their matrix's outputs. A pointer is
   NULL where the family has no such part. */
typedef struct {
    const float *attention_norm, *attention_norm_bias, *qkv, *qkv_bias, *q_norm, *k_norm, *out, *out_bias;
    const float *ffn_norm, *ffn_norm_bias, *inward, *inward_bias, *down, *down_bias;
    float *keys;   /* [n_blocks, n_kv_head, d_head, 16]: a block's scores are sums of vectors */
    float *values; /* [n_blocks, n_kv_head, 16, d_head padded to sixteens] */
    int64_t width; /* neurons */
} layer;

typedef struct {
    int64_t n_layer, d_model, n_head, n_kv_head, d_head, vocab_size, context_length;
    int64_t activation, gated, layer_norm, fan_in; /* fan_in: floats from row to row of the FFN's inner values */
    double eps;
    const layer *layers;
    const float *head, *embedding;        /* embedding: NULL where the head's panels hold it */
    const float *positions, *cosines, *sines; /* learned, or angles [context_length, d_head] */
    const float *norm, *norm_bias;
} model;

enum { SILU, GELU, GELU_TANH, RELU };

/* Rows that every thread normalises for itself; and heads whose scores a thread holds at a time, on any CPU. */
enum { FEW_ROWS = 16, MOST_HEADS_AT_ONCE = 4 };

/* rows: one for each token. normed: of all rows; own: of FEW_ROWS rows for each thread, which no other writes, so
   that a thread that is far behind spoils nothing. apart: whether each is of another sequence. table: where, in
   `blocks`, the row's sequence begins. order: for each layer, the rows from the widest to the narrowest; widths: of the
   rows in that order.

   submodels: of each row. dims: how much of d_model each submodel has; heads: how many heads, [submodels, n_layer].
   d_used: the most of d_model that a row has; most_heads: of each layer. */
typedef struct {
    int64_t rows, logit_rows, apart, d_used;
    const int32_t *tokens, *places, *table, *blocks, *wants, *submodels, *dims, *heads, *most_heads;
    int32_t *order, *widths;
    float *x, *normed, *own, *qkv, *mixed, *inner, *scores, *logits;
    int64_t scores_size; /* floats for each thread */
    phase *phases;
} rows;

typedef struct {
    const model *model;
    const rows *rows;
} step;

#endif
