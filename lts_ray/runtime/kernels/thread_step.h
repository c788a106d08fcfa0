/* One thread's share of a step, from the tokens to the logits. Compiled once for each kind of CPU. */
#include "attention.h"
#include "matmul.h"
#include "rounded.h"
#include "row_work.h"
#include "step.h"

/* Take pieces 0 ... total-1 of this phase until none is left. */
#define FOR_PIECES(piece, total) \
    wanted = (total);            \
    for (long piece; (piece = take(now)) < wanted; finish(now))

/* All pieces of this phase are done. */
#define NEXT_PHASE() await(now++, wanted)

/* used: inputs that count, the first of n_in. rounded: the rows as groups, where their precision has them so; floats and
   groups from row to row are ld and ld_rounded. fine: whether rows in 4 bits meet all 8 of this matrix. */
typedef struct {
    const matrix *w;
    const float *bias, *x;
    const group *rounded;
    long ld, ld_rounded, n_in, used, panels;
    int fine;
} product;

INLINE long pieces(const product *p) { return (p->panels + PIECE_PANELS - 1) / PIECE_PANELS; }

INLINE int panels_of(const product *p, long piece) {
    const long left = p->panels - piece * PIECE_PANELS;
    return left < PIECE_PANELS ? LEAST_PANELS : PIECE_PANELS;
}

INLINE long groups_of(long inputs) { return (inputs + GROUP - 1) / GROUP; }

INLINE int rows_at_once(int precision) { return precision < INT8 ? TILE_ROWS : ROUNDED_ROWS; }

/* Add inputs from ... to-1, or groups of them where the rows are rounded, of n rows to a piece's sums. */
INLINE void multiply(const product *p, int precision, long piece, long first, long n, long from, long to,
                     piece_sums sums) {
    const int panels = panels_of(p, piece);
    if (precision < INT8) {
        const long stride = p->n_in * PANEL, at = piece * PIECE_PANELS * stride;
        for (int panel = 0; panel < panels; panel += TILE_PANELS) {
            const panel_floats w = {precision == FLOAT32 ? p->w->plain + at + panel * stride : NULL,
                                    precision == FLOAT32 ? NULL : p->w->half + at + panel * stride};
            any_tile((int)n, panels < TILE_PANELS ? LEAST_PANELS : TILE_PANELS, p->x + first * p->ld, p->ld, &w, stride,
                     from, to, sums[0] + panel * PARTS);
        }
    } else {
        const int both = precision == INT8 || p->fine;
        for (long panel = 0; panel < panels; panel++) {
            const long at = (piece * PIECE_PANELS + panel) * groups_of(p->n_in);
            const panel_codes w = {p->w->upper + at * GROUP_BYTES, both ? p->w->lower + at * GROUP_BYTES : NULL,
                                   p->w->scales + at * PANEL};
            any_rounded_tile((int)n, p->rounded + first * p->ld_rounded, p->ld_rounded, &w, from, to,
                             sums[0] + panel * PARTS);
        }
    }
}

INLINE lanes with_bias(const product *p, long piece, lanes sum, int v) {
    if (p->bias) sum += load(p->bias + piece * PIECE_PANELS * PANEL + v * LANES);
    return sum;
}

/* y = x wT + bias for one piece and all rows; onto: what y held is added. widths: of each row, in falling order within
   a precision, where not all inputs count: the rows of a tile leave it one by one, the narrowest first. places: rows
   of y, where they are others. */
static void project(const product *p, const int64_t *starts, long piece, const int32_t *widths, const int32_t *places,
                    const int onto, float *y, long ld) {
    const int vectors = panels_of(p, piece) * PARTS;
    for (int precision = 0; precision < PRECISIONS; precision++)
        for (long first = starts[precision], stop = starts[precision + 1], n; first < stop; first += n) {
            n = next_rows(stop - first, rows_at_once(precision));
            piece_sums sums;
            memset(sums, 0, sizeof sums[0] * (size_t)n);
            long done = 0;
            for (long left = n; left;) {
                const long width = widths ? widths[first + left - 1] : p->used;
                const long end = precision < INT8 ? width : groups_of(width);
                if (end > done) multiply(p, precision, piece, first, left, done, end, sums);
                done = end;
                if (!widths) break;
                while (left && widths[first + left - 1] == width) left--;
            }
            for (long r = 0; r < n; r++)
                for (int v = 0; v < vectors; v++) {
                    const long row = places ? places[first + r] : first + r;
                    float *to = y + row * ld + piece * PIECE_PANELS * PANEL + v * LANES;
                    lanes value = with_bias(p, piece, sums[r][v], v);
                    if (onto) value += load(to);
                    store(to, value);
                }
        }
}

/* Activations of one piece: the neurons that it holds, for the rows that are wide enough to have some of them. What
   stands past a row's width is never read, or is 0 where it is in the row's last group. */
static void fan_in(const model *m, const product *p, const int64_t *starts, long piece, const int32_t *widths,
                   const rows *b) {
    const int matrices = m->gated ? 2 : 1, panels = panels_of(p, piece), neurons = panels / matrices * PANEL;
    const long neuron = piece * PIECE_PANELS / matrices * PANEL;
    for (int precision = 0; precision < PRECISIONS; precision++) {
        long stop = starts[precision + 1];
        while (stop > starts[precision] && widths[stop - 1] <= neuron) stop--;
        for (long first = starts[precision], n; first < stop; first += n) {
            n = next_rows(stop - first, rows_at_once(precision));
            piece_sums sums;
            memset(sums, 0, sizeof sums[0] * (size_t)n);
            multiply(p, precision, piece, first, n, 0, precision < INT8 ? p->used : groups_of(p->used), sums);
            for (long r = 0; r < n; r++) {
                float values[PIECE_PANELS * PANEL];
                float *to = precision < INT8 ? b->inner + (first + r) * m->fan_in + neuron : values;
                for (int panel = 0; panel < panels; panel += matrices)
                    for (int part = 0; part < PARTS; part++) {
                        const int v = panel * PARTS + part;
                        lanes value = activated(m->activation, with_bias(p, piece, sums[r][v], v));
                        if (m->gated) value *= with_bias(p, piece, sums[r][v + PARTS], v + PARTS);
                        store(to + panel / matrices * PANEL + part * LANES, value);
                    }
                if (precision < INT8) continue;
                for (long i = widths[first + r] - neuron; i < neurons; i++) values[i] = 0.0f;
                group *groups = b->inner_rounded + ((first + r) * m->fan_in + neuron) / GROUP;
                for (int i = 0; i < neurons; i += GROUP)
                    round_group(values + i, precision == INT4 ? UPPER_ONLY : BOTH_PLANES, groups + i / GROUP);
            }
        }
    }
}

/* The most neurons of a row. */
INLINE long widest(const int64_t *starts, const int32_t *widths) {
    long most = 0;
    for (int p = 0; p < PRECISIONS; p++)
        if (starts[p] < starts[p + 1] && widths[starts[p]] > most) most = widths[starts[p]];
    return most;
}

/* Whether no row needs a piece of queries, keys and values: it is all queries of heads past the most. */
INLINE int is_unasked(const model *m, const product *p, long piece, long most_heads) {
    const long first = piece * PIECE_PANELS * PANEL, stop = first + panels_of(p, piece) * PANEL;
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
    const long key = block * m->block_stride + head * d * PANEL + slot;
    const long value = block * m->block_stride + (head * PANEL + slot) * d_value;
    if (m->half_cache) {
        for (long i = 0; i < d; i++) ((uint16_t *)l->keys)[key + i * PANEL] = to_half(k[i]);
        for (long i = 0; i < d; i++) ((uint16_t *)l->values)[value + i] = to_half(v[i]);
    } else {
        for (long i = 0; i < d; i++) ((float *)l->keys)[key + i * PANEL] = k[i];
        memcpy((float *)l->values + value, v, sizeof(float) * (size_t)d);
    }
}

static void look_back(const model *m, const layer *l, const rows *b, long row, long head, const float *qkv, float *y,
                      float *scores) {
    const long d = m->d_head, d_value = rounded_up(d, PANEL), group = m->n_head / m->n_kv_head;
    const long seen = b->places[row] + 1, size = m->half_cache ? sizeof(uint16_t) : sizeof(float);
    const view sequence = {
        .keys = (const char *)l->keys + head * d * PANEL * size,
        .values = (const char *)l->values + head * PANEL * d_value * size,
        .blocks = b->blocks + b->table[row],
        .stride = m->block_stride,
        .d_head = d,
        .d_value = d_value,
        .n = seen,
        .scale = 1.0f / sqrtf((float)d),
    };
    const float *q = qkv + head * group * d;
    if (m->half_cache)
        any_attend(group, 1, &sequence, q, scores, rounded_up(seen, PANEL), y + head * group * d);
    else
        any_attend(group, 0, &sequence, q, scores, rounded_up(seen, PANEL), y + head * group * d);
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

/* Row i of those that `starts` divides by precision: as groups where its precision has it so. */
INLINE void round_where(const int64_t *starts, long i, int fine, const float *x, long n, group *to) {
    if (i >= starts[INT8]) round_row(x, n, i >= starts[INT4] && !fine ? UPPER_ONLY : BOTH_PLANES, to);
}

/* Normalise row i. */
INLINE void prepare(const model *m, const rows *b, const int64_t *starts, long i, long row, int fine,
                    const float *weight, const float *bias, float *normed, group *rounded) {
    normalise(m, b->x + row * model_stride(m), dims_of(b, row), weight, bias, normed + i * model_stride(m), b->d_used);
    round_where(starts, i, fine, normed + i * model_stride(m), b->d_used, rounded + i * b->rounded_size);
}

/* Do it for all n rows. If they are few, every thread does it for itself: that is quicker than to wait. A thread that
   comes late, when others may have gone on to change what is read, does it for nothing and finds no piece to take. */
#define FOR_ALL(row, n, what)                          \
    do {                                               \
        if (few) {                                     \
            for (long row = 0; row < (n); row++) what; \
        } else {                                       \
            FOR_PIECES(row, n) what;                   \
            NEXT_PHASE();                              \
        }                                              \
    } while (0)

static void THREAD_STEP(void *job, int member) {
    const step *s = job;
    const model *m = s->model;
    const rows *b = s->rows;
    phase *now = b->phases;
    long wanted;
    const long n = b->rows, d = m->d_head, ld = model_stride(m), ld_rounded = b->rounded_size;
    const long ld_qkv = rounded_up((m->n_head + 2 * m->n_kv_head) * d, 2 * PANEL), ld_mixed = m->n_head * d;
    const int few = n <= FEW_ROWS;
    float *normed = few ? b->own + member * FEW_ROWS * ld : b->normed;
    group *rounded = few ? b->own_rounded + member * FEW_ROWS * ld_rounded : b->rounded;
    float *scores = b->scores + member * b->scores_size;
    const long used = b->d_used, panels_used = rounded_up(used, 2 * PANEL) / PANEL;
    const int64_t *starts = b->starts;

    FOR_PIECES(row, n) embed(m, b, row, b->x + row * ld);
    NEXT_PHASE();
    for (long i = 0; i < m->n_layer; i++) {
        const layer *l = m->layers + i;
        const int32_t *order = b->order + i * n, *widths = b->widths + i * n;

        FOR_ALL(row, n, prepare(m, b, starts, row, row, 0, l->attention_norm, l->attention_norm_bias, normed, rounded));
        const product qkv = {&l->qkv, l->qkv_bias, normed, rounded, ld, ld_rounded, m->d_model, used, ld_qkv / PANEL, 0};
        FOR_PIECES(piece, pieces(&qkv))
        if (!is_unasked(m, &qkv, piece, b->most_heads[i])) project(&qkv, starts, piece, NULL, NULL, 0, b->qkv, ld_qkv);
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
        const long heads_used = b->most_heads[i] * d;
        if (starts[INT8] < n)
            FOR_ALL(row, n, round_where(starts, row, 0, b->mixed + row * ld_mixed, heads_used, rounded + row * ld_rounded));
        const product out = {&l->out, l->out_bias, b->mixed, rounded, ld_mixed, ld_rounded, m->n_head * d, heads_used,
                             panels_used, 0};
        FOR_PIECES(piece, pieces(&out)) project(&out, starts, piece, NULL, NULL, 1, b->x, ld);
        NEXT_PHASE();
        FOR_ALL(row, n, prepare(m, b, starts, row, order[row], 0, l->ffn_norm, l->ffn_norm_bias, normed, rounded));
        const product inward = {&l->inward, l->inward_bias, normed, rounded, ld, ld_rounded, m->d_model, used,
                                (m->gated ? 2 : 1) * rounded_up(widest(starts, widths), 2 * PANEL) / PANEL, 0};
        FOR_PIECES(piece, pieces(&inward)) fan_in(m, &inward, starts, piece, widths, b);
        NEXT_PHASE();
        const product down = {&l->down, l->down_bias, b->inner, b->inner_rounded, m->fan_in, m->fan_in / GROUP, l->width,
                              l->width, panels_used, 0};
        FOR_PIECES(piece, pieces(&down)) project(&down, starts, piece, widths, order, 1, b->x, ld);
        NEXT_PHASE();
    }
    FOR_PIECES(row, b->logit_rows)
    prepare(m, b, b->logit_starts, row, b->wants[row], 1, m->norm, m->norm_bias, b->normed, b->rounded);
    NEXT_PHASE();
    const long ld_logits = rounded_up(m->vocab_size, 2 * PANEL);
    const product head = {&m->head, NULL, b->normed, b->rounded, ld, ld_rounded, m->d_model, used, ld_logits / PANEL, 1};
    FOR_PIECES(piece, pieces(&head))
    project(&head, b->logit_starts, piece, NULL, b->targets, 0, b->logits, ld_logits);
    NEXT_PHASE();
}
