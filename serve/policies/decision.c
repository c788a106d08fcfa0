/* What policies spend their time on, compiled: forecast.py with rollout.py, the decision of deadline.py. The same in
   Python stands there, explains it, and takes over where nothing was compiled; tests hold the two to each other.

   Unlike rollout.py, which lists stretches and has them priced together, a stretch is priced as soon as it is known:
   `time` is how long all until now take under each cap, and a row notes it when its first and its last token come.
   So memory is one table of [caps, jobs], however many stretches there are. Order among rows that end with the same
   step changes nothing, since sums of whole numbers are exact: so the heap of a crew needs no number against ties. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#define NEVER 1e15 /* as forecast.py has it */
#define KINDS 3    /* of bounds: ttft, tpot, e2e */

static PyObject *s_id, *s_request, *s_arrived_ms, *s_cached, *s_produced, *s_first_ms, *s_terms, *s_pinned;
static PyObject *s_slots, *s_chunk_tokens, *s_neurons, *s_universal, *s_elastic;
static PyObject *s_grid, *s_base, *s_neuron, *s_head, *s_attended, *s_prompt_attended, *s_slowdown;
static PyObject *s_prompt_slowdown, *s_overhead_ms, *s_horizons_ms, *s_likely, *s_safe;
static PyObject *s_hopeless, *s_worth, *s_worth_most, *s_hold_worth, *s_hold_every, *s_free;

/* Memory of one call, freed as a whole. */
typedef struct arena {
    char *at, *end;
    void *blocks[64];
    int n_blocks;
} arena;

static void *take(arena *a, size_t bytes) {
    bytes = (bytes + 15) & ~(size_t)15;
    if ((size_t)(a->end - a->at) < bytes) {
        const size_t size = bytes > 16384 ? bytes : 16384;
        void *block = a->n_blocks < 64 ? PyMem_Malloc(size) : NULL;
        if (!block) {
            PyErr_NoMemory();
            return NULL;
        }
        a->blocks[a->n_blocks++] = block;
        a->at = block;
        a->end = a->at + size;
    }
    void *taken = a->at;
    a->at += bytes;
    return taken;
}

static void release(arena *a) {
    for (int i = 0; i < a->n_blocks; i++) PyMem_Free(a->blocks[i]);
}

#define NEW(arena, type, count) ((type *)take(arena, sizeof(type) * (size_t)((count) + 1)))

/* An attribute as a number; None is none: NaN, which fmin and fmax pass over. */
static int number(PyObject *object, PyObject *name, double *to) {
    PyObject *value = PyObject_GetAttr(object, name);
    if (!value) return -1;
    *to = value == Py_None ? NAN : PyFloat_AsDouble(value);
    Py_DECREF(value);
    return *to == -1.0 && PyErr_Occurred() ? -1 : 0;
}

static int whole(PyObject *object, PyObject *name, int64_t *to) {
    PyObject *value = PyObject_GetAttr(object, name);
    if (!value) return -1;
    *to = PyLong_AsLongLong(value);
    Py_DECREF(value);
    return *to == -1 && PyErr_Occurred() ? -1 : 0;
}

/* A sequence of numbers; the count, or -1. */
static Py_ssize_t numbers(PyObject *sequence, arena *a, double **to) {
    PyObject *fast = PySequence_Fast(sequence, "numbers are wanted");
    if (!fast) return -1;
    Py_ssize_t count = PySequence_Fast_GET_SIZE(fast);
    if (!(*to = NEW(a, double, count))) count = -1;
    for (Py_ssize_t i = 0; i < count; i++) {
        (*to)[i] = PyFloat_AsDouble(PySequence_Fast_GET_ITEM(fast, i));
        if ((*to)[i] == -1.0 && PyErr_Occurred()) count = -1;
    }
    Py_DECREF(fast);
    return count;
}

static Py_ssize_t numbers_of(PyObject *object, PyObject *name, arena *a, double **to) {
    PyObject *value = PyObject_GetAttr(object, name);
    if (!value) return -1;
    const Py_ssize_t count = numbers(value, a, to);
    Py_DECREF(value);
    return count;
}

/* What steps cost: lts_ray/runtime/step_costs.py. */
typedef struct costs {
    Py_ssize_t points;
    double *grid, *base, *neuron, *head;
    double attended, prompt_attended, slowdown, prompt_slowdown, overhead_ms;
} costs;

static int read_costs(PyObject *object, arena *a, costs *c) {
    if ((c->points = numbers_of(object, s_grid, a, &c->grid)) < 1) return -1;
    if (numbers_of(object, s_base, a, &c->base) != c->points) return -1;
    if (numbers_of(object, s_neuron, a, &c->neuron) != c->points) return -1;
    if (numbers_of(object, s_head, a, &c->head) != c->points) return -1;
    if (number(object, s_attended, &c->attended) || number(object, s_prompt_attended, &c->prompt_attended)) return -1;
    if (isnan(c->prompt_attended)) c->prompt_attended = c->attended;
    return number(object, s_slowdown, &c->slowdown) || number(object, s_prompt_slowdown, &c->prompt_slowdown) ||
                   number(object, s_overhead_ms, &c->overhead_ms)
               ? -1
               : 0;
}

static double at(const costs *c, const double *values, int64_t rows) {
    if (rows <= 0) return 0;
    if (c->points == 1) return values[0] * rows;
    Py_ssize_t right = 1;
    while (right < c->points - 1 && c->grid[right] <= rows) right++;
    const double low = c->grid[right - 1], share = (rows - low) / (c->grid[right] - low);
    return values[right - 1] + share * (values[right] - values[right - 1]);
}

/* How far time strays: deviation.py. A row for each kind of bound. */
typedef struct deviation {
    Py_ssize_t points;
    double *horizons, *likely[KINDS], *safe[KINDS];
} deviation;

static int read_lines(PyObject *object, PyObject *name, arena *a, double **lines, Py_ssize_t points) {
    PyObject *rows = PyObject_GetAttr(object, name), *fast = rows ? PySequence_Fast(rows, "rows are wanted") : NULL;
    int failed = !fast || PySequence_Fast_GET_SIZE(fast) != KINDS;
    for (int i = 0; i < KINDS && !failed; i++)
        failed = numbers(PySequence_Fast_GET_ITEM(fast, i), a, &lines[i]) != points;
    Py_XDECREF(rows);
    Py_XDECREF(fast);
    if (failed && !PyErr_Occurred()) PyErr_SetString(PyExc_ValueError, "a deviation has a value for each horizon");
    return failed ? -1 : 0;
}

static int read_deviation(PyObject *object, arena *a, deviation *d) {
    if ((d->points = numbers_of(object, s_horizons_ms, a, &d->horizons)) < 1) return -1;
    for (Py_ssize_t i = 0; i < d->points; i++) d->horizons[i] = log(d->horizons[i]);
    return read_lines(object, s_likely, a, d->likely, d->points) || read_lines(object, s_safe, a, d->safe, d->points)
               ? -1
               : 0;
}

/* Its odds: 0 with less than `hopeless` times what is likely, 1 with what is safe, evenly between, and above. */
static double chance(const deviation *d, int kind, double left_ms, double needed_ms, double hopeless) {
    if (needed_ms < 1e-9) needed_ms = 1e-9;
    const double ahead = log(needed_ms), *likely = d->likely[kind], *safe = d->safe[kind];
    Py_ssize_t right = 0;
    while (right < d->points && d->horizons[right] <= ahead) right++;
    double middle, upper;
    if (right == 0 || right == d->points) {
        const Py_ssize_t end = right ? right - 1 : 0;
        middle = likely[end];
        upper = safe[end];
    } else {
        const double low = d->horizons[right - 1], share = (ahead - low) / (d->horizons[right] - low);
        middle = likely[right - 1] + share * (likely[right] - likely[right - 1]);
        upper = safe[right - 1] + share * (safe[right] - safe[right - 1]);
    }
    return (left_ms / needed_ms - hopeless * middle) / (upper - hopeless * middle);
}

/* What of a request never changes: Request.terms. A bound is NaN where there is none. */
typedef struct terms {
    double prompt, most, ttft_ms, tpot_ms, e2e_ms, pinned, priority;
} terms;

typedef struct job {
    PyObject *id; /* owned by the job's own object */
    terms t;
    double arrived_ms, first_ms; /* NaN before the first token */
    int64_t cached, produced, pending, left;
    int bounded, elastic, decodes;
    double own; /* neurons, unless it is elastic */
} job;

static int read_job(PyObject *object, double universal, job *j) {
    PyObject *request = PyObject_GetAttr(object, s_request), *packed = request ? PyObject_GetAttr(request, s_terms) : NULL;
    const int known = packed && PyBytes_Check(packed) && PyBytes_GET_SIZE(packed) == sizeof(terms);
    if (known) memcpy(&j->t, PyBytes_AS_STRING(packed), sizeof(terms));
    Py_XDECREF(packed);
    Py_XDECREF(request);
    if (!known || !(j->id = PyObject_GetAttr(object, s_id))) {
        if (!PyErr_Occurred()) PyErr_SetString(PyExc_TypeError, "a request's terms are other ones");
        return -1;
    }
    Py_DECREF(j->id); /* the job keeps it */
    if (number(object, s_arrived_ms, &j->arrived_ms) || number(object, s_first_ms, &j->first_ms)) return -1;
    if (whole(object, s_cached, &j->cached) || whole(object, s_produced, &j->produced)) return -1;
    j->pending = (int64_t)j->t.prompt + j->produced - j->cached;
    j->left = (int64_t)j->t.most - j->produced;
    j->decodes = j->produced > 0 && j->pending == 1;
    j->bounded = !(isnan(j->t.ttft_ms) && isnan(j->t.tpot_ms) && isnan(j->t.e2e_ms));
    j->elastic = j->bounded && j->t.pinned < 0;
    j->own = j->t.pinned < 0 ? universal : j->t.pinned;
    return 0;
}

/* Those of two tuples, one after the other. */
static job *read_jobs(PyObject *running, PyObject *waiting, double universal, arena *a) {
    if (!PyTuple_Check(running) || !PyTuple_Check(waiting)) {
        PyErr_SetString(PyExc_TypeError, "jobs come as tuples");
        return NULL;
    }
    const Py_ssize_t begun = PyTuple_GET_SIZE(running), n = begun + PyTuple_GET_SIZE(waiting);
    job *jobs = NEW(a, job, n);
    for (Py_ssize_t i = 0; jobs && i < n; i++) {
        PyObject *each = i < begun ? PyTuple_GET_ITEM(running, i) : PyTuple_GET_ITEM(waiting, i - begun);
        if (read_job(each, universal, &jobs[i])) return NULL;
    }
    return jobs;
}

/* Its next bound, on the clock: Job.due_ms. */
static double due_ms(const job *j) {
    if (isnan(j->first_ms)) return j->arrived_ms + fmin(j->t.ttft_ms, j->t.e2e_ms);
    return j->arrived_ms + fmin(j->t.e2e_ms, j->first_ms - j->arrived_ms + j->t.tpot_ms * (j->t.most - 1));
}

/* One rollout and its prices: see rollout.py. */
typedef struct row {
    int64_t cached, pending, left;
    int kind, held;
} row;

typedef struct crew {
    struct ending {
        int64_t end;
        Py_ssize_t row;
    } * heap;
    int64_t size, steps, context, *rows;
} crew;

typedef struct rollout {
    const costs *c;
    int64_t slots, chunk;
    Py_ssize_t n, n_caps, n_fixed; /* jobs; caps; widths that are fixed */
    const double *caps;
    double *fixed;         /* growing */
    double *shared;        /* [caps, n_fixed + 1]: how much of each band of neurons is below the cap */
    double now_ms, *time;  /* [caps] */
    double *first, *last;  /* [caps, n] */
    row *jobs;
    int64_t *rows; /* [n_fixed + 1]: of the step that is being put together */
    double *with, *alone;
    Py_ssize_t *prompts; /* in the order in which they are read */
    crew free, held;
} rollout;

static void join(rollout *r, crew *c, Py_ssize_t index) {
    const row *joined = &r->jobs[index];
    const int64_t end = c->steps + joined->left;
    int64_t place = c->size++;
    while (place && c->heap[(place - 1) / 2].end > end) {
        c->heap[place] = c->heap[(place - 1) / 2];
        place = (place - 1) / 2;
    }
    c->heap[place].end = end;
    c->heap[place].row = index;
    c->rows[joined->kind]++;
    c->context += joined->cached;
}

static int64_t until_end(const crew *c) { return c->heap[0].end - c->steps; }

static void comes(const rollout *r, double *table, Py_ssize_t index) {
    for (Py_ssize_t cap = 0; cap < r->n_caps; cap++) table[cap * r->n + index] = r->now_ms + r->time[cap];
}

static void advance(rollout *r, crew *c, int64_t steps) {
    c->steps += steps;
    c->context += steps * c->size;
    while (c->size && c->heap[0].end <= c->steps) {
        const Py_ssize_t index = c->heap[0].row;
        const struct ending moved = c->heap[--c->size];
        for (int64_t place = 0, child; ; place = child) {
            child = 2 * place + 1;
            if (child + 1 < c->size && c->heap[child + 1].end < c->heap[child].end) child++;
            if (child >= c->size || c->heap[child].end >= moved.end) {
                c->heap[place] = moved;
                break;
            }
            c->heap[place] = c->heap[child];
        }
        comes(r, r->last, index);
        c->rows[r->jobs[index].kind]--;
        c->context -= r->jobs[index].cached + r->jobs[index].left;
    }
}

/* Like steps, with `rows` in each: `attended` is of the first one, as in rollout.py's _note. */
static void note(rollout *r, int64_t steps, double attended, int64_t logits, double prompt_attended) {
    const costs *c = r->c;
    int64_t total = 0;
    for (Py_ssize_t kind = 0; kind <= r->n_fixed; kind++) total += r->rows[kind];
    attended = steps * attended + (double)(logits * steps * (steps - 1) / 2);
    const double slowdown = total > logits ? c->slowdown * c->prompt_slowdown : c->slowdown;
    const double quiet = (at(c, c->base, total) + at(c, c->head, logits)) * steps + c->attended * attended +
                         c->prompt_attended * prompt_attended;
    const double others = slowdown * quiet + c->overhead_ms * steps, factor = slowdown * steps;
    if (!r->n_fixed) {
        const double each = at(c, c->neuron, total) * factor;
        for (Py_ssize_t cap = 0; cap < r->n_caps; cap++) r->time[cap] += r->caps[cap] * each + others;
        return;
    }
    int64_t reaching = 0;
    const int64_t capped = r->rows[r->n_fixed];
    r->with[r->n_fixed] = at(c, c->neuron, capped);
    for (Py_ssize_t band = r->n_fixed - 1; band >= 0; band--) {
        reaching += r->rows[band];
        r->with[band] = at(c, c->neuron, reaching + capped);
        r->alone[band] = at(c, c->neuron, reaching);
    }
    for (Py_ssize_t cap = 0; cap < r->n_caps; cap++) {
        const double *shared = r->shared + cap * (r->n_fixed + 1);
        double sum = shared[r->n_fixed] * r->with[r->n_fixed];
        for (Py_ssize_t band = 0; band < r->n_fixed; band++) {
            const double width = r->fixed[band] - (band ? r->fixed[band - 1] : 0);
            sum += shared[band] * r->with[band] + (width - shared[band]) * r->alone[band];
        }
        r->time[cap] += sum * factor + others;
    }
}

/* Rows of these crews in `rows`; what they look at, themselves included, is returned. held: NULL for none. */
static int64_t together(rollout *r, const crew *free, const crew *held, int64_t *size) {
    for (Py_ssize_t kind = 0; kind <= r->n_fixed; kind++) r->rows[kind] = free->rows[kind] + (held ? held->rows[kind] : 0);
    *size = free->size + (held ? held->size : 0);
    return free->context + (held ? held->context : 0) + *size;
}

static void run(rollout *r, const crew *free, const crew *held, int64_t steps) {
    int64_t size;
    const int64_t attended = together(r, free, held, &size);
    note(r, steps, (double)attended, size, 0);
}

static int64_t modulo(int64_t value, int64_t every) { return (value % every + every) % every; }

/* One step with as much of the prompts as fits. Returns how many of them are read now. */
static Py_ssize_t read_prompts(rollout *r, Py_ssize_t *prompts, Py_ssize_t count, crew *held) {
    int64_t decoding;
    double attended = (double)together(r, &r->free, held, &decoding), prompt_attended = 0;
    int64_t room = r->chunk - decoding > 1 ? r->chunk - decoding : 1;
    Py_ssize_t done = 0;
    for (Py_ssize_t i = 0; i < count && room; i++) {
        row *each = &r->jobs[prompts[i]];
        const int64_t taken = room < each->pending ? room : each->pending;
        const double looked = (double)(taken * each->cached + taken * (taken + 1) / 2);
        r->rows[each->kind] += taken;
        each->pending -= taken;
        each->cached += taken;
        const double with_logits = each->pending || !taken ? 0 : looked / taken;
        attended += with_logits;
        prompt_attended += looked - with_logits;
        done += each->pending == 0;
        room -= taken;
    }
    note(r, 1, attended, decoding + done, prompt_attended);
    advance(r, &r->free, 1);
    if (held) advance(r, held, 1);
    for (Py_ssize_t i = 0; i < done; i++) {
        comes(r, r->first, prompts[i]);
        comes(r, r->last, prompts[i]);
        if (--r->jobs[prompts[i]].left) join(r, &r->free, prompts[i]);
    }
    return done;
}

static void roll(rollout *r, Py_ssize_t begun, int64_t every, int64_t wait, const job *jobs) {
    Py_ssize_t reading = 0, begins = 0, next = begun; /* prompts[begins:reading] are being read */
    for (Py_ssize_t i = 0; i < begun; i++) {
        if (jobs[i].decodes)
            join(r, r->jobs[i].held ? &r->held : &r->free, i);
        else
            r->prompts[reading++] = i;
    }
    for (;;) {
        while (next < r->n && reading - begins + r->free.size + r->held.size < r->slots) r->prompts[reading++] = next++;
        if (reading > begins) {
            begins += read_prompts(r, r->prompts + begins, reading - begins, wait == 0 ? &r->held : NULL);
            wait = modulo(wait - 1, every);
        } else if (r->free.size && r->held.size) {
            int64_t steps = until_end(&r->free), most = wait + (until_end(&r->held) - 1) * every + 1;
            if (most < steps) steps = most;
            const int64_t joint = steps <= wait ? 0 : (steps - 1 - wait) / every + 1;
            if (steps != joint) run(r, &r->free, NULL, steps - joint);
            if (joint) run(r, &r->free, &r->held, joint);
            advance(r, &r->free, steps);
            advance(r, &r->held, joint);
            wait = modulo(wait - steps, every);
        } else if (r->free.size || r->held.size) {
            crew *alone = r->free.size ? &r->free : &r->held;
            const int64_t steps = until_end(alone);
            run(r, alone, NULL, steps);
            advance(r, alone, steps);
            wait = 0;
        } else
            return;
    }
}

static int make_crew(arena *a, crew *c, Py_ssize_t n, Py_ssize_t kinds) {
    memset(c, 0, sizeof(*c));
    c->heap = NEW(a, struct ending, n);
    c->rows = NEW(a, int64_t, kinds);
    if (!c->heap || !c->rows) return -1;
    memset(c->rows, 0, sizeof(int64_t) * kinds);
    return 0;
}

/* When tokens come, in first and last. widths: of each job, negative for the cap. held: of each job, or NULL. */
static int foresee(arena *a, rollout *r, const job *jobs, Py_ssize_t begun, const double *widths, const char *held,
                   int64_t every, int64_t wait) {
    const Py_ssize_t n = r->n, n_caps = r->n_caps;
    if (!(r->fixed = NEW(a, double, n)) || !(r->jobs = NEW(a, row, n)) || !(r->prompts = NEW(a, Py_ssize_t, n))) return -1;
    r->n_fixed = 0;
    for (Py_ssize_t i = 0; i < n; i++) {
        Py_ssize_t place = r->n_fixed;
        if (widths[i] < 0) continue;
        while (place && r->fixed[place - 1] > widths[i]) place--;
        if (place && r->fixed[place - 1] == widths[i]) continue;
        memmove(r->fixed + place + 1, r->fixed + place, sizeof(double) * (r->n_fixed++ - place));
        r->fixed[place] = widths[i];
    }
    for (Py_ssize_t i = 0; i < n; i++) {
        row *each = &r->jobs[i];
        each->cached = jobs[i].cached;
        each->pending = jobs[i].pending;
        each->left = jobs[i].left;
        each->held = held && held[i];
        each->kind = (int)r->n_fixed;
        for (int kind = 0; widths[i] >= 0 && kind < r->n_fixed; kind++)
            if (r->fixed[kind] == widths[i]) each->kind = kind;
    }
    const Py_ssize_t kinds = r->n_fixed + 1;
    if (make_crew(a, &r->free, n, kinds) || make_crew(a, &r->held, n, kinds)) return -1;
    if (!(r->rows = NEW(a, int64_t, kinds)) || !(r->with = NEW(a, double, kinds))) return -1;
    if (!(r->alone = NEW(a, double, kinds)) || !(r->shared = NEW(a, double, n_caps * kinds))) return -1;
    if (!(r->time = NEW(a, double, n_caps)) || !(r->first = NEW(a, double, n_caps * n))) return -1;
    if (!(r->last = NEW(a, double, n_caps * n))) return -1;
    for (Py_ssize_t cap = 0; cap < n_caps; cap++) {
        r->time[cap] = 0;
        for (Py_ssize_t band = 0; band < kinds; band++) {
            const double below = band ? r->fixed[band - 1] : 0, above = band < r->n_fixed ? r->fixed[band] : NEVER;
            r->shared[cap * kinds + band] = fmin(fmax(r->caps[cap], below), above) - below;
        }
    }
    for (Py_ssize_t i = 0; i < n_caps * n; i++) r->first[i] = r->last[i] = r->now_ms;
    roll(r, begun, every, wait, jobs);
    for (Py_ssize_t i = 0; i < n; i++)
        for (Py_ssize_t cap = 0; !isnan(jobs[i].first_ms) && cap < n_caps; cap++)
            r->first[cap * n + i] = jobs[i].first_ms;
    return 0;
}

/* As Forecast.odds: of each job under each cap. */
static void find_odds(const deviation *d, const job *jobs, Py_ssize_t n, Py_ssize_t n_caps, const double *firsts,
                      const double *lasts, double now_ms, double hopeless, double *odds) {
    for (Py_ssize_t i = 0; i < n_caps * n; i++) {
        const job *j = &jobs[i % n];
        const double first = firsts[i], last = lasts[i];
        double least = j->bounded;
        if (!isnan(j->t.ttft_ms)) {
            const double due = j->arrived_ms + j->t.ttft_ms;
            const int came = !isnan(j->first_ms);
            least = fmin(least, came ? due >= first : chance(d, 0, due - now_ms, first - now_ms, hopeless));
        }
        if (!isnan(j->t.e2e_ms))
            least = fmin(least, chance(d, 2, j->arrived_ms + j->t.e2e_ms - now_ms, last - now_ms, hopeless));
        if (!isnan(j->t.tpot_ms)) {
            const double begun = fmax(first, now_ms), between = j->t.tpot_ms * fmax(1, j->t.most - 1);
            least = fmin(least, chance(d, 1, first + between - begun, last - begun, hopeless));
        }
        odds[i] = fmax(least, 0);
    }
}

static PyObject *table(const double *values, Py_ssize_t count) {
    return PyBytes_FromStringAndSize((const char *)values, (Py_ssize_t)sizeof(double) * count);
}

/* forecast(running, waiting, now_ms, capacity, widths, caps, costs, held, every, wait) -> first, last
   widths: a dict of neurons by id; held: a set of ids. The two: [caps, jobs], as bytes. */
static PyObject *forecast(PyObject *module, PyObject *args) {
    PyObject *running, *waiting, *capacity, *widths_by_id, *caps, *costs_object, *held_ids, *result = NULL;
    arena a = {0};
    rollout r = {0};
    costs c;
    long long every, wait;
    double *given;
    if (!PyArg_ParseTuple(args, "OOdOO!OOOLL", &running, &waiting, &r.now_ms, &capacity, &PyDict_Type, &widths_by_id,
                          &caps, &costs_object, &held_ids, &every, &wait))
        return NULL;
    job *jobs = read_jobs(running, waiting, 0, &a);
    if (!jobs || read_costs(costs_object, &a, &c) || (r.n_caps = numbers(caps, &a, &given)) < 0) goto end;
    if (whole(capacity, s_slots, &r.slots) || whole(capacity, s_chunk_tokens, &r.chunk)) goto end;
    const Py_ssize_t begun = PyTuple_GET_SIZE(running);
    r.n = begun + PyTuple_GET_SIZE(waiting);
    r.c = &c;
    r.caps = given;
    double *widths = NEW(&a, double, r.n);
    char *held = NEW(&a, char, r.n);
    if (!widths || !held) goto end;
    for (Py_ssize_t i = 0; i < r.n; i++) {
        PyObject *width = PyDict_GetItemWithError(widths_by_id, jobs[i].id);
        widths[i] = width ? PyFloat_AsDouble(width) : -1;
        const int is_held = PySequence_Contains(held_ids, jobs[i].id);
        if (is_held < 0 || PyErr_Occurred()) goto end;
        held[i] = (char)is_held;
    }
    if (foresee(&a, &r, jobs, begun, widths, held, every, wait)) goto end;
    result = Py_BuildValue("NN", table(r.first, r.n_caps * r.n), table(r.last, r.n_caps * r.n));
end:
    release(&a);
    return result;
}

/* odds(jobs, now_ms, first, last, deviation, hopeless) -> bytes. first, last: [caps, jobs], whatever has doubles. */
static PyObject *odds(PyObject *module, PyObject *args) {
    PyObject *objects, *deviation_object, *result = NULL;
    Py_buffer first, last;
    double now_ms, hopeless;
    arena a = {0};
    deviation d;
    if (!PyArg_ParseTuple(args, "O!dy*y*Od", &PyTuple_Type, &objects, &now_ms, &first, &last, &deviation_object, &hopeless))
        return NULL;
    PyObject *none = PyTuple_New(0);
    job *jobs = none ? read_jobs(objects, none, 0, &a) : NULL;
    const Py_ssize_t n = PyTuple_GET_SIZE(objects), count = first.len / (Py_ssize_t)sizeof(double);
    double *found = NEW(&a, double, count);
    if (jobs && found && !read_deviation(deviation_object, &a, &d)) {
        if (first.len != last.len || (n ? count % n : count))
            PyErr_SetString(PyExc_ValueError, "both are [caps, jobs]");
        else {
            if (n) find_odds(&d, jobs, n, count / n, first.buf, last.buf, now_ms, hopeless, found);
            result = table(found, count);
        }
    }
    Py_XDECREF(none);
    PyBuffer_Release(&first);
    PyBuffer_Release(&last);
    release(&a);
    return result;
}

/* A decision under way: what is decided from, and the best forecast so far. */
typedef struct plan {
    arena *a;
    const job *jobs;
    Py_ssize_t begun, n, n_caps;
    const double *widths, *caps;
    const deviation *d;
    double hopeless, *odds, *kept, most; /* budgets that are kept under each cap, and under the best one */
    rollout r;
} plan;

static int expect(plan *p, const char *held, int64_t every, int64_t wait) {
    if (foresee(p->a, &p->r, p->jobs, p->begun, p->widths, held, every, wait)) return -1;
    if (!(p->odds = NEW(p->a, double, p->n_caps * p->n)) || !(p->kept = NEW(p->a, double, p->n_caps))) return -1;
    find_odds(p->d, p->jobs, p->n, p->n_caps, p->r.first, p->r.last, p->r.now_ms, p->hopeless, p->odds);
    p->most = 0;
    for (Py_ssize_t cap = 0; cap < p->n_caps; cap++) {
        p->kept[cap] = 0;
        for (Py_ssize_t i = 0; i < p->n; i++) p->kept[cap] += p->odds[cap * p->n + i];
        p->most = fmax(p->most, p->kept[cap]);
    }
    return 0;
}

/* The step of fixed rows, whose widths grow, and of `rows` that decode at `neurons`. */
static double step_ms(const costs *c, const double *widths, const int64_t *counts, Py_ssize_t n, int64_t total,
                      int64_t logits, double neurons, int64_t rows) {
    double quiet = at(c, c->base, total + rows) + at(c, c->head, logits + rows), below = 0;
    int64_t left = total + rows;
    int taken = 0;
    for (Py_ssize_t i = 0; i < n || !taken;) {
        const int is_own = !taken && (i == n || neurons < widths[i]);
        const double width = is_own ? neurons : widths[i];
        if (width > below) {
            quiet += (width - below) * at(c, c->neuron, left);
            below = width;
        }
        if (is_own) {
            left -= rows;
            taken = 1;
        } else
            left -= counts[i++];
    }
    return c->slowdown * (total > logits ? quiet * c->prompt_slowdown : quiet) + c->overhead_ms;
}

/* As DeadlinePolicy._widened: an option by its place. without: of each job, whether it is left out; or NULL. */
static Py_ssize_t widened(const plan *p, const costs *c, int64_t chunk, Py_ssize_t cap, const char *without,
                          const double *options, Py_ssize_t n_options, double free) {
    double *widths = NEW(p->a, double, p->begun);
    int64_t *counts = NEW(p->a, int64_t, p->begun), rows = 0, total = 0, logits = 0;
    Py_ssize_t n = 0;
    if (!widths || !counts) return -1;
    for (Py_ssize_t i = 0; i < p->begun; i++) {
        const job *j = &p->jobs[i];
        if (without && without[i]) continue;
        if (j->elastic) {
            rows += j->decodes;
            continue;
        }
        Py_ssize_t place = n++;
        for (; place && widths[place - 1] > j->own; place--) {
            widths[place] = widths[place - 1];
            counts[place] = counts[place - 1];
        }
        widths[place] = j->own;
        counts[place] = j->pending < chunk ? j->pending : chunk;
        total += counts[place];
        logits += counts[place] == j->pending;
    }
    if (!rows || !n || widths[n - 1] <= options[cap]) return cap;
    const double limit = step_ms(c, widths, counts, n, total, logits, options[cap], rows) * (1 + free);
    for (Py_ssize_t wide = 0; wide < n_options; wide++)
        if (step_ms(c, widths, counts, n, total, logits, options[wide], rows) <= limit) return wide;
    return cap;
}

/* Ids of the jobs that are marked. */
static PyObject *ids(const job *jobs, Py_ssize_t n, const char *marks) {
    PyObject *set = PyFrozenSet_New(NULL);
    for (Py_ssize_t i = 0; set && i < n; i++)
        if (marks[i] && PySet_Add(set, jobs[i].id)) Py_CLEAR(set);
    return set;
}

static int read_menu(PyObject *menu, arena *a, double *universal, double **options, Py_ssize_t *n) {
    PyObject *elastic = PyObject_GetAttr(menu, s_elastic), *full = elastic ? PyObject_GetAttr(menu, s_universal) : NULL;
    int failed = !full || !PyTuple_Check(elastic) || number(full, s_neurons, universal);
    if (!failed) {
        *n = PyTuple_GET_SIZE(elastic);
        failed = !(*options = NEW(a, double, *n));
        for (Py_ssize_t i = 0; !failed && i < *n; i++) failed = number(PyTuple_GET_ITEM(elastic, i), s_neurons, *options + i);
    }
    Py_XDECREF(elastic);
    Py_XDECREF(full);
    if (failed && !PyErr_Occurred()) PyErr_SetString(PyExc_TypeError, "a menu's options come as a tuple");
    return failed ? -1 : 0;
}

/* decide(running, waiting, now_ms, capacity, menu, start, stop, costs, deviation, thresholds, wait)
   -> jobs, fixed, late, held (sets of ids), every, wait, cap, alone, together (places on the menu), nearest_ms,
      first, last (of the cap and the narrowest, as bytes): DeadlinePolicy._decide.
   waiting: in the order in which they are to run. start, stop: the part of the menu to choose from. */
static PyObject *decide(PyObject *module, PyObject *args) {
    PyObject *running, *waiting, *capacity, *menu, *costs_object, *deviation_object, *thresholds, *result = NULL;
    Py_ssize_t start, stop, n_options = 0, n_every;
    long long wait_at_first;
    arena a = {0};
    plan p = {0};
    costs c;
    deviation d;
    double universal = 0, *options = NULL, worth, worth_most, hold_worth, free, *hold_every;
    if (!PyArg_ParseTuple(args, "OOdOOnnOOOL", &running, &waiting, &p.r.now_ms, &capacity, &menu, &start, &stop,
                          &costs_object, &deviation_object, &thresholds, &wait_at_first))
        return NULL;
    if (read_menu(menu, &a, &universal, &options, &n_options)) goto end;
    if (start < 0 || start >= stop || stop > n_options) {
        PyErr_SetString(PyExc_ValueError, "there is no such part of the menu");
        goto end;
    }
    job *jobs = read_jobs(running, waiting, universal, &a);
    if (!jobs || read_costs(costs_object, &a, &c) || read_deviation(deviation_object, &a, &d)) goto end;
    if (whole(capacity, s_slots, &p.r.slots) || whole(capacity, s_chunk_tokens, &p.r.chunk)) goto end;
    if (number(thresholds, s_hopeless, &p.hopeless) || number(thresholds, s_worth, &worth)) goto end;
    if (number(thresholds, s_worth_most, &worth_most) || number(thresholds, s_hold_worth, &hold_worth)) goto end;
    if (number(thresholds, s_free, &free)) goto end;
    if ((n_every = numbers_of(thresholds, s_hold_every, &a, &hold_every)) < 0) goto end;
    const Py_ssize_t begun = PyTuple_GET_SIZE(running), n = begun + PyTuple_GET_SIZE(waiting), n_caps = stop - start;
    double *widths = NEW(&a, double, n);
    char *held = NEW(&a, char, n), *late = NEW(&a, char, n), *fixed = NEW(&a, char, n), *all = NEW(&a, char, n);
    char *none = NEW(&a, char, n);
    if (!widths || !held || !late || !fixed || !all || !none) goto end;
    Py_ssize_t bounded = 0, n_held = 0, n_late = 0, n_elastic = 0;
    for (Py_ssize_t i = 0; i < n; i++) {
        const job *j = &jobs[i];
        widths[i] = j->elastic ? -1 : j->own;
        all[i] = 1;
        none[i] = 0;
        fixed[i] = !j->elastic;
        bounded += j->bounded;
        n_elastic += j->elastic;
        held[i] = i < begun && !j->bounded && j->decodes && j->own > options[n_options - 1];
        n_held += held[i];
    }
    p.a = &a;
    p.jobs = jobs;
    p.begun = begun;
    p.n = p.r.n = n;
    p.n_caps = p.r.n_caps = n_caps;
    p.widths = widths;
    p.caps = p.r.caps = options + start;
    p.d = &d;
    p.r.c = &c;
    if (expect(&p, NULL, 1, 0)) goto end;
    int64_t every = 1, wait = 0;
    for (Py_ssize_t i = 0; n_held && n_held < begun && i < n_every && p.most <= bounded - hold_worth; i++) {
        plan tried = p;
        const int64_t rarely = (int64_t)hold_every[i], then = wait_at_first < rarely - 1 ? wait_at_first : rarely - 1;
        if (expect(&tried, held, rarely, then)) goto end;
        if (tried.most >= p.most + hold_worth) {
            p = tried;
            every = rarely;
            wait = then;
        }
    }
    if (every == 1) held = none;
    const double least = p.most - fmin(worth * p.most, worth_most), *narrow = p.odds + (n_caps - 1) * n;
    Py_ssize_t cap = 0;
    while (cap < n_caps - 1 && p.kept[cap] < least) cap++;
    for (Py_ssize_t i = 0; i < n; i++) n_late += late[i] = jobs[i].elastic && narrow[i] == 0;
    if (n_late && n_late == n_elastic) cap = n_caps - 1;
    double nearest_ms = INFINITY, *first = NEW(&a, double, 2 * n), *last = NEW(&a, double, 2 * n);
    if (!first || !last) goto end;
    for (Py_ssize_t i = 0; i < n; i++) {
        if (jobs[i].elastic && !late[i]) nearest_ms = fmin(nearest_ms, due_ms(&jobs[i]));
        first[i] = p.r.first[cap * n + i];
        first[n + i] = p.r.first[(n_caps - 1) * n + i];
        last[i] = p.r.last[cap * n + i];
        last[n + i] = p.r.last[(n_caps - 1) * n + i];
    }
    cap += start;
    const Py_ssize_t alone = widened(&p, &c, p.r.chunk, cap, held, options, n_options, free);
    const Py_ssize_t together = every == 1 ? alone : widened(&p, &c, p.r.chunk, cap, NULL, options, n_options, free);
    if (alone < 0 || together < 0) goto end;
    result = Py_BuildValue("NNNNLLnnndNN", ids(jobs, n, all), ids(jobs, n, fixed), ids(jobs, n, late),
                           ids(jobs, n, held), (long long)every, (long long)wait, cap, alone, together, nearest_ms,
                           table(first, 2 * n), table(last, 2 * n));
end:
    release(&a);
    return result;
}

/* assign(running, waiting, menu, cap, decoding, late) -> options by id: DeadlinePolicy's plan. decoding: the option of
   elastic jobs that decode. late: ids. */
static PyObject *assign(PyObject *module, PyObject *args) {
    PyObject *running, *waiting, *menu, *cap, *decoding, *late, *options = NULL;
    double capped, wide;
    arena a = {0};
    if (!PyArg_ParseTuple(args, "OOOOOO", &running, &waiting, &menu, &cap, &decoding, &late)) return NULL;
    PyObject *full = PyObject_GetAttr(menu, s_universal), *elastic = full ? PyObject_GetAttr(menu, s_elastic) : NULL;
    job *jobs = elastic && PyTuple_Check(elastic) ? read_jobs(running, waiting, 0, &a) : NULL;
    if (jobs && !number(cap, s_neurons, &capped) && !number(decoding, s_neurons, &wide)) options = PyDict_New();
    const Py_ssize_t begun = options ? PyTuple_GET_SIZE(running) : 0, n = options ? begun + PyTuple_GET_SIZE(waiting) : 0;
    PyObject *narrowest = options ? PyTuple_GET_ITEM(elastic, PyTuple_GET_SIZE(elastic) - 1) : NULL;
    for (Py_ssize_t i = 0; options && i < n; i++) {
        const job *j = &jobs[i];
        PyObject *option = j->decodes ? decoding : cap, *own = NULL;
        if (!j->elastic) {
            PyObject *object = i < begun ? PyTuple_GET_ITEM(running, i) : PyTuple_GET_ITEM(waiting, i - begun);
            PyObject *request = PyObject_GetAttr(object, s_request);
            own = request ? PyObject_GetAttr(request, s_pinned) : NULL;
            Py_XDECREF(request);
            option = own == Py_None ? full : own;
        } else if (!j->decodes || wide <= capped) {
            const int is_late = PySet_Contains(late, j->id);
            option = is_late < 0 ? NULL : is_late ? narrowest : option;
        }
        if (!option || PyDict_SetItem(options, j->id, option)) Py_CLEAR(options);
        Py_XDECREF(own);
    }
    Py_XDECREF(full);
    Py_XDECREF(elastic);
    release(&a);
    return options;
}

static PyMethodDef methods[] = {
    {"forecast", forecast, METH_VARARGS, "forecast.py's forecast."},
    {"odds", odds, METH_VARARGS, "forecast.py's Forecast.odds."},
    {"decide", decide, METH_VARARGS, "deadline.py's decision."},
    {"assign", assign, METH_VARARGS, "deadline.py's options."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, .m_name = "serve.policies._decision", .m_size = -1, .m_methods = methods};

PyMODINIT_FUNC PyInit__decision(void) {
    const struct {
        PyObject **at;
        const char *name;
    } names[] = {
        {&s_id, "id"}, {&s_request, "request"}, {&s_arrived_ms, "arrived_ms"}, {&s_cached, "cached"},
        {&s_produced, "produced"}, {&s_first_ms, "first_ms"}, {&s_terms, "terms"}, {&s_pinned, "pinned"}, {&s_slots, "slots"},
        {&s_chunk_tokens, "chunk_tokens"}, {&s_neurons, "neurons"}, {&s_universal, "universal"},
        {&s_elastic, "elastic"}, {&s_grid, "grid"}, {&s_base, "base"}, {&s_neuron, "neuron"}, {&s_head, "head"},
        {&s_attended, "attended"}, {&s_prompt_attended, "prompt_attended"}, {&s_slowdown, "slowdown"},
        {&s_prompt_slowdown, "prompt_slowdown"}, {&s_overhead_ms, "overhead_ms"}, {&s_horizons_ms, "horizons_ms"},
        {&s_likely, "likely"}, {&s_safe, "safe"}, {&s_hopeless, "hopeless"}, {&s_worth, "worth"},
        {&s_worth_most, "worth_most"}, {&s_hold_worth, "hold_worth"}, {&s_hold_every, "hold_every"}, {&s_free, "free"},
    };
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        if (!*names[i].at && !(*names[i].at = PyUnicode_InternFromString(names[i].name))) return NULL;
    PyObject *made = PyModule_Create(&module);
    if (made && PyModule_AddIntConstant(made, "VERSION", 1)) Py_CLEAR(made);
    return made;
}
