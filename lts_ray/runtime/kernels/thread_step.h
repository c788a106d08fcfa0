/* One thread's share of a step, from the tokens to the logits. Compiled once for each kind of CPU. */
#include "attention.h"
#include "matmul.h"
#include "row_work.h"
#include "step.h"

/* Take pieces 0 ... total-1 of this phase until none is left. */
#define FOR_PIECES(piece, total) \
    wanted = (total);            \
    for (long piece; (piece = take(now)) < wanted; finish(now))

/* All pieces of this phase are done. */
#define NEXT_PHASE() await(now++, wanted)

/* used: inputs that count, the first of n_in. */
typedef struct {
    const float *x, *w, *bias;
    long ld, n_in, used, panels;
} product;

/* A piece of a product is TILE_PANELS panels, or the rest. */
INLINE long pieces(const product *p) { return (p->panels + TILE_PANELS - 1) / TILE_PANELS; }

INLINE int panels_of(const product *p, long piece) {
    const long left = p->panels - piece * TILE_PANELS;
    return left < TILE_PANELS ? LEAST_PANELS : TILE_PANELS;
}

INLINE void multiply(const product *p, long piece, long first, long n, tile_sums sums) {
    const long stride = p->n_in * PANEL;
    memset(sums, 0, sizeof(tile_sums));
    any_tile((int)n, panels_of(p, piece), p->x + first * p->ld, p->ld, p->w + piece * TILE_PANELS * stride, stride, 0,
             p->used, sums);
}

INLINE lanes with_bias(const product *p, long piece, lanes sum, int v) {
    if (p->bias) sum += load(p->bias + piece * TILE_PANELS * PANEL + v * LANES);
    return sum;
}

/* y = x wT + bias for one piece and all rows; onto: what y held is added. */
INLINE void project(const product *p, long piece, long n_rows, const int onto, float *y, long ld) {
    const int vectors = panels_of(p, piece) * PARTS;
    for (long first = 0, n; first < n_rows; first += n) {
        n = next_rows(n_rows - first);
        tile_sums sums;
        multiply(p, piece, first, n, sums);
        for (long r = 0; r < n; r++)
            for (int v = 0; v < vectors; v++) {
                float *to = y + (first + r) * ld + piece * TILE_PANELS * PANEL + v * LANES;
                lanes value = with_bias(p, piece, sums[r][v], v);
                if (onto) value += load(to);
                store(to, value);
            }
    }
}

/* Activations of one piece: the neurons that it holds, for the rows that are wide enough to have some of them. What
   stands past a row's width is never read. */
INLINE void fan_in(const model *m, const product *p, long piece, const int32_t *widths, long n_rows, float *inner) {
    const int matrices = m->gated ? 2 : 1, panels = panels_of(p, piece);
    const long neuron = piece * TILE_PANELS / matrices * PANEL;
    while (n_rows && widths[n_rows - 1] <= neuron) n_rows--;
    for (long first = 0, n; first < n_rows; first += n) {
        n = next_rows(n_rows - first);
        tile_sums sums;
        multiply(p, piece, first, n, sums);
        for (long r = 0; r < n; r++)
            for (int panel = 0; panel < panels; panel += matrices) {
                float *to = inner + (first + r) * m->fan_in + neuron + panel / matrices * PANEL;
                for (int part = 0; part < PARTS; part++) {
                    const int v = panel * PARTS + part;
                    lanes value = activated(m->activation, with_bias(p, piece, sums[r][v], v));
                    if (m->gated) value *= with_bias(p, piece, sums[r][v + PARTS], v + PARTS);
                    store(to + part * LANES, value);
                }
            }
    }
}

/* x += inner downT, each row over its own width: the rows of a tile leave it one by one, the narrowest first. */
INLINE void fan_out(const product *p, long piece, const int32_t *widths, const int32_t *order, long n_rows, float *x,
                    long ld) {
    const int panels = panels_of(p, piece);
    const long stride = p->n_in * PANEL;
    for (long first = 0, n; first < n_rows; first += n) {
        n = next_rows(n_rows - first);
        tile_sums sums;
        memset(sums, 0, sizeof(tile_sums));
        long done = 0;
        for (long left = n; left;) {
            const long width = widths[first + left - 1];
            if (width > done)
                any_tile((int)left, panels, p->x + first * p->ld, p->ld, p->w + piece * TILE_PANELS * stride, stride,
                         done, width, sums);
            done = width;
            while (left && widths[first + left - 1] == width) left--;
        }
        for (long r = 0; r < n; r++)
            for (int v = 0; v < panels * PARTS; v++) {
                float *to = x + order[first + r] * ld + piece * TILE_PANELS * PANEL + v * LANES;
                store(to, load(to) + with_bias(p, piece, sums[r][v], v));
            }
    }
}

/* Whether no row needs a piece of queries, keys and values: it is all queries of heads past the most. */
INLINE int is_unasked(const model *m, const product *p, long piece, long most_heads) {
    const long first = piece * TILE_PANELS * PANEL, stop = first + panels_of(p, piece) * PANEL;
    return first >= most_heads * m->d_head && stop <= m->n_head * m->d_head;
}

/* Turn the queries that share a head of keys, and that head, and put its keys and values into the row's block. */
INLINE void remember(const model *m, const layer *l, const rows *b, long row, long head, float *qkv) {
    const int32_t place = b->places[row];
    const long block = b->blocks[b->table[row] + place / PANEL], slot = place % PANEL;
    const long d = m->d_head, d_value = rounded_up(d, PANEL), group = m->n_head / m->n_kv_head;
    float *k = qkv + (m->n_head + head) * d, *v = k + m->n_kv_head * d;
    turn(m, qkv + head * group * d, group, l->q_norm, place);
    turn(m, k, 1, l->k_norm, place);
    float *keys = l->keys + (block * m->n_kv_head + head) * d * PANEL + slot;
    float *values = l->values + ((block * m->n_kv_head + head) * PANEL + slot) * d_value;
    for (long i = 0; i < d; i++) keys[i * PANEL] = k[i];
    memcpy(values, v, sizeof(float) * (size_t)d);
}

INLINE void look_back(const model *m, const layer *l, const rows *b, long row, long head, const float *qkv, float *y,
                      float *scores) {
    const long d = m->d_head, d_value = rounded_up(d, PANEL), group = m->n_head / m->n_kv_head;
    const long seen = b->places[row] + 1;
    const view sequence = {
        .keys = l->keys + head * d * PANEL,
        .values = l->values + head * PANEL * d_value,
        .blocks = b->blocks + b->table[row],
        .key_stride = m->n_kv_head * d * PANEL,
        .value_stride = m->n_kv_head * PANEL * d_value,
        .d_head = d,
        .d_value = d_value,
        .n = seen,
        .scale = 1.0f / sqrtf((float)d),
    };
    any_attend(group, &sequence, qkv + head * group * d, scores, rounded_up(seen, PANEL), y + head * group * d);
}

INLINE long dims_of(const rows *b, long row) { return b->dims[b->submodels[row]]; }

/* What a row sees through the heads that share a head of keys: nothing where it does not have them. */
INLINE void look(const model *m, const rows *b, long i, long row, long head, const float *qkv, float *y,
                 float *scores) {
    const long group = m->n_head / m->n_kv_head;
    if (head * group < b->heads[b->submodels[row] * m->n_layer + i])
        look_back(m, m->layers + i, b, row, head, qkv, y, scores);
    else
        memset(y + head * group * m->d_head, 0, sizeof(float) * (size_t)(group * m->d_head));
}

/* Normalise all rows, in this order. If they are few, every thread normalises them for itself: that is quicker than to
   wait. A thread that comes late, when others may have gone on to change x, does it for nothing and finds no piece to
   take. */
#define NORMALISE(weight, bias, order)                                                              \
    do {                                                                                            \
        if (few) {                                                                                  \
            for (long row = 0; row < n; row++)                                                      \
                normalise(m, b->x + (order) * ld, dims_of(b, order), weight, bias, normed + row * ld, b->d_used); \
        } else {                                                                                    \
            FOR_PIECES(row, n)                                                                      \
            normalise(m, b->x + (order) * ld, dims_of(b, order), weight, bias, normed + row * ld, b->d_used); \
            NEXT_PHASE();                                                                           \
        }                                                                                           \
    } while (0)

static void THREAD_STEP(void *job, int member) {
    const step *s = job;
    const model *m = s->model;
    const rows *b = s->rows;
    phase *now = b->phases;
    long wanted;
    const long n = b->rows, d = m->d_head, ld = model_stride(m);
    const long ld_qkv = rounded_up((m->n_head + 2 * m->n_kv_head) * d, 2 * PANEL), ld_mixed = m->n_head * d;
    const int few = n <= FEW_ROWS;
    float *normed = few ? b->own + member * FEW_ROWS * ld : b->normed;
    float *scores = b->scores + member * b->scores_size;
    const long used = b->d_used, panels_used = rounded_up(used, 2 * PANEL) / PANEL;

    FOR_PIECES(row, n) embed(m, b->tokens[row], b->places[row], b->x + row * ld);
    NEXT_PHASE();
    for (long i = 0; i < m->n_layer; i++) {
        const layer *l = m->layers + i;
        const int32_t *order = b->order + i * n, *widths = b->widths + i * n;

        NORMALISE(l->attention_norm, l->attention_norm_bias, row);
        const product qkv = {normed, l->qkv, l->qkv_bias, ld, m->d_model, used, ld_qkv / PANEL};
        FOR_PIECES(piece, pieces(&qkv))
        if (!is_unasked(m, &qkv, piece, b->most_heads[i])) project(&qkv, piece, n, 0, b->qkv, ld_qkv);
        NEXT_PHASE();
        /* Rows of different sequences need nothing of each other; tokens of a prompt need the keys before them. */
        FOR_PIECES(piece, n * m->n_kv_head) {
            const long row = piece / m->n_kv_head, head = piece % m->n_kv_head;
            remember(m, l, b, row, head, b->qkv + row * ld_qkv);
            if (b->apart) look(m, b, i, row, head, b->qkv + row * ld_qkv, b->mixed + row * ld_mixed, scores);
        }
        NEXT_PHASE();
        if (!b->apart) {
            FOR_PIECES(piece, n * m->n_kv_head) {
                const long row = piece / m->n_kv_head, head = piece % m->n_kv_head;
                look(m, b, i, row, head, b->qkv + row * ld_qkv, b->mixed + row * ld_mixed, scores);
            }
            NEXT_PHASE();
        }
        const product out = {b->mixed, l->out, l->out_bias, ld_mixed, m->n_head * d, b->most_heads[i] * d, panels_used};
        FOR_PIECES(piece, pieces(&out)) project(&out, piece, n, 1, b->x, ld);
        NEXT_PHASE();
        NORMALISE(l->ffn_norm, l->ffn_norm_bias, order[row]);
        const product inward = {normed, l->inward, l->inward_bias, ld, m->d_model, used,
                                (m->gated ? 2 : 1) * rounded_up(widths[0], 2 * PANEL) / PANEL};
        FOR_PIECES(piece, pieces(&inward)) fan_in(m, &inward, piece, widths, n, b->inner);
        NEXT_PHASE();
        const product down = {b->inner, l->down, l->down_bias, m->fan_in, l->width, l->width, panels_used};
        FOR_PIECES(piece, pieces(&down)) fan_out(&down, piece, widths, order, n, b->x, ld);
        NEXT_PHASE();
    }
    FOR_PIECES(row, b->logit_rows)
    normalise(m, b->x + b->wants[row] * ld, dims_of(b, b->wants[row]), m->norm, m->norm_bias, b->normed + row * ld, used);
    NEXT_PHASE();
    const product head = {b->normed, m->head, NULL, ld, m->d_model, used, rounded_up(m->vocab_size, 2 * PANEL) / PANEL};
    FOR_PIECES(piece, pieces(&head))
    project(&head, piece, b->logit_rows, 0, b->logits, rounded_up(m->vocab_size, 2 * PANEL));
    NEXT_PHASE();
}
