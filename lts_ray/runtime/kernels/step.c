/* What is called from outside: make a team of threads, run a step. */
#include "step.h"

#include <string.h>

typedef void (*worker)(void *, int);

extern const worker lts_worker_any;
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
extern const worker lts_worker_v3, lts_worker_v4;

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

/* The step for a kind of CPU, the plainest first: 0, 1, ... NULL where this CPU is none, or there are no more. */
worker lts_worker(int kind) {
    if (kind == 0) return lts_worker_any;
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
    if (kind == 1 && supports_v3()) return lts_worker_v3;
    if (kind == 2 && supports_v4()) return lts_worker_v4;
#endif
    return 0;
}

void *lts_team_new(int size) { return team_new(size); }

void lts_team_free(void *t) { team_free(t); }

/* Phases of a step of n_layer layers, at the most, and the bytes of one. */
int64_t lts_phases(int64_t n_layer) { return 8 * n_layer + 4; }
int64_t lts_phase_bytes(void) { return sizeof(phase); }

/* Whether the structures here are laid out as the caller believes. */
int lts_sizes_are(int64_t of_layer, int64_t of_model, int64_t of_rows) {
    return sizeof(layer) == of_layer && sizeof(model) == of_model && sizeof(rows) == of_rows;
}

/* For each layer, order the rows by their width, widest first. widths: [n_submodels, n_layer].
   Rows of one width stay in their order; counting suffices, because there are few submodels. */
static void arrange(const model *m, const rows *b, int64_t n_submodels, const int32_t *widths) {
    for (int64_t i = 0; i < m->n_layer; i++) {
        int32_t *order = b->order + i * b->rows, *sorted = b->widths + i * b->rows;
        int64_t filled = 0;
        for (int64_t below = INT32_MAX; filled < b->rows;) {
            int64_t width = -1;
            for (int64_t s = 0; s < n_submodels; s++) {
                const int64_t each = widths[s * m->n_layer + i];
                if (each < below && each > width) width = each;
            }
            for (int64_t row = 0; row < b->rows; row++)
                if (widths[b->submodels[row] * m->n_layer + i] == width) {
                    order[filled] = (int32_t)row;
                    sorted[filled++] = (int32_t)width;
                }
            below = width;
        }
    }
}

void lts_step(worker work, const model *m, const rows *b, void *t, int64_t n_submodels, const int32_t *widths) {
    const step job = {m, b};
    arrange(m, b, n_submodels, widths);
    memset((void *)b->phases, 0, sizeof *b->phases * (size_t)lts_phases(m->n_layer));
    team_run(t, work, (void *)&job);
}
