/* What is called from outside: make a team of threads, run a step. */
#include "lanes.h"
#include "step.h"

#include <stddef.h>

typedef void (*thread_step)(void *, int);

extern const thread_step lts_thread_step_any;
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
extern const thread_step lts_thread_step_v3, lts_thread_step_v3_dot, lts_thread_step_v4, lts_thread_step_v4_dot;

static int supports_v3(void) {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
           __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("lzcnt") && __builtin_cpu_supports("movbe") &&
           __builtin_cpu_supports("f16c");
}

static int supports_v4(void) {
    return supports_v3() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512cd");
}
#endif

/* The step for a kind of CPU, the plainest first: the kinds that this CPU is are 0, 1, ...; NULL where there are no
   more. */
thread_step lts_thread_step(int kind) {
    const struct {
        int is_here;
        thread_step work;
    } kinds[] = {
        {1, lts_thread_step_any},
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
        {supports_v3(), lts_thread_step_v3},
        {supports_v3() && __builtin_cpu_supports("avxvnni"), lts_thread_step_v3_dot},
        {supports_v4(), lts_thread_step_v4},
        {supports_v4() && __builtin_cpu_supports("avx512vnni"), lts_thread_step_v4_dot},
#endif
    };
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        if (kinds[i].is_here && kind-- == 0) return kinds[i].work;
    return 0;
}

void *lts_team_new(int size) { return team_new(size); }

void lts_team_free(void *t) { team_free(t); }

/* Phases of a step of n_layer layers, at the most. */
int64_t lts_phases(int64_t n_layer) { return 9 * n_layer + 4; }

/* What the caller lays its memory out by; kernel_library.py reads or checks each. */
const int64_t lts_layer_bytes = sizeof(layer), lts_model_bytes = sizeof(model), lts_rows_bytes = sizeof(rows);
const int64_t lts_phase_bytes = sizeof(phase), lts_matrix_bytes = sizeof(matrix), lts_group_bytes = sizeof(group);
const int64_t lts_group = GROUP, lts_precisions = PRECISIONS;
const int64_t lts_panel = PANEL, lts_block_tokens = PANEL;
const int64_t lts_few_rows = FEW_ROWS, lts_heads_at_once = MOST_HEADS_AT_ONCE;
const int64_t lts_silu = SILU, lts_gelu = GELU, lts_gelu_tanh = GELU_TANH, lts_relu = RELU;

/* For each layer, order the rows of each precision by their width, widest first. widths: [n_submodels, n_layer].
   Rows of one width stay in their order; counting suffices, because there are few submodels. */
static void arrange(const model *m, const rows *b, int64_t n_submodels, const int32_t *widths) {
    for (int64_t i = 0; i < m->n_layer; i++) {
        int32_t *order = b->order + i * b->rows, *sorted = b->widths + i * b->rows;
        for (int64_t p = 0; p < PRECISIONS; p++)
            for (int64_t below = INT32_MAX, filled = b->starts[p]; filled < b->starts[p + 1];) {
                int64_t width = -1;
                for (int64_t s = 0; s < n_submodels; s++) {
                    const int64_t each = widths[s * m->n_layer + i];
                    if (each < below && each > width) width = each;
                }
                for (int64_t row = b->starts[p]; row < b->starts[p + 1]; row++)
                    if (widths[b->submodels[row] * m->n_layer + i] == width) {
                        order[filled] = (int32_t)row;
                        sorted[filled++] = (int32_t)width;
                    }
                below = width;
            }
    }
}

void lts_step(thread_step work, const model *m, const rows *b, void *t, int64_t n_submodels, const int32_t *widths) {
    const step job = {m, b};
    arrange(m, b, n_submodels, widths);
    memset((void *)b->phases, 0, sizeof *b->phases * (size_t)lts_phases(m->n_layer));
    team_run(t, work, (void *)&job);
}
