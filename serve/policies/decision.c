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
static PyObject *s_slots, *s_chunk_tokens, *s_shape, *s_universal, *s_elastic;
static PyObject *s_grid, *s_curves, *s_once, *s_attended, *s_prompt_attended, *s_slowdown;
static PyObject *s_prompt_slowdown, *s_overhead_ms, *s_horizons_ms, *s_likely, *s_safe;
static PyObject *s_hopeless, *s_worth, *s_worth_most, *s_hold_worth, *s_hold_every, *s_free, *s_unbudgeted_ms, *s_late_ms;

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

/* Neurons and planes of a submodel, in one number: Option.shape. Of one precision, the first, it is the neurons. */
#define NEURONS 1099511627776.0 /* 2 to the power of menu.py's SHAPE_BITS */

static double neurons_of(double shape) { return shape - NEURONS * (double)(int64_t)(shape / NEURONS); }

static int planes_of(double shape) { return (int)(shape / NEURONS) ^ 1; }

/* Whether a step of rows with the second shape costs more with one of the first. */
static int exceeds(double shape, double other) {
    return neurons_of(shape) > neurons_of(other) || (planes_of(shape) & ~planes_of(other));
}

/* What steps cost: lts_ray/runtime/step_costs.py. */
#define MOST_PLANES 4

typedef struct costs {
    Py_ssize_t points, n_planes;
    double *grid, *base, *neuron, *head; /* of the first plane */
    struct plane {
        int bit;
        double *base, *neuron, *head;
    } planes[MOST_PLANES];
    double once, attended, prompt_attended, slowdown, prompt_slowdown, overhead_ms;
} costs;

static int read_costs(PyObject *object, arena *a, costs *c) {
    if ((c->points = numbers_of(object, s_grid, a, &c->grid)) < 1) return -1;
    PyObject *curves = PyObject_GetAttr(object, s_curves);
    c->n_planes = curves && PyTuple_Check(curves) ? PyTuple_GET_SIZE(curves) : 0;
    int failed = c->n_planes < 1 || c->n_planes > MOST_PLANES;
    for (Py_ssize_t i = 0; i < c->n_planes && !failed; i++) {
        PyObject *each = PyTuple_GET_ITEM(curves, i);
        struct plane *p = &c->planes[i];
        if (!PyTuple_Check(each) || PyTuple_GET_SIZE(each) != 4) {
            failed = 1;
            break;
        }
        p->bit = (int)PyLong_AsLong(PyTuple_GET_ITEM(each, 0));
        failed = numbers(PyTuple_GET_ITEM(each, 1), a, &p->base) != c->points ||
                 numbers(PyTuple_GET_ITEM(each, 2), a, &p->neuron) != c->points ||
                 numbers(PyTuple_GET_ITEM(each, 3), a, &p->head) != c->points;
    }
    Py_XDECREF(curves);
    if (failed) {
        if (!PyErr_Occurred()) PyErr_SetString(PyExc_TypeError, "step costs have one to four planes");
        return -1;
    }
    c->base = c->planes[0].base;
    c->neuron = c->planes[0].neuron;
    c->head = c->planes[0].head;
    if (number(object, s_once, &c->once)) return -1;
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

/* Rows of a step that share a shape. */
typedef struct group {
    double neurons;
    int planes;
    int64_t rows, logits;
} group;

static group group_of(double shape, int64_t rows, int64_t logits) {
    return (group){neurons_of(shape), planes_of(shape), rows, logits};
}

/* The narrower one first. */
static int is_before(double shape, double other) {
    const double neurons = neurons_of(shape), others = neurons_of(other);
    return neurons < others || (neurons == others && shape < other);
}

/* What the planes of a step cost, of n groups, the widest last, and of `own`: StepCosts.quiet_ms. */
static double planes_ms(const costs *c, const group *groups, Py_ssize_t n, const group *own) {
    double quiet = c->once;
    for (Py_ssize_t i = 0; i < c->n_planes; i++) {
        const struct plane *p = &c->planes[i];
        const int all = c->n_planes == 1 ? -1 : p->bit, reads = (own->planes & all) != 0;
        int64_t left = reads ? own->rows : 0, logits = reads ? own->logits : 0;
        for (Py_ssize_t k = 0; k < n; k++)
            if (groups[k].planes & all) {
                left += groups[k].rows;
                logits += groups[k].logits;
            }
        double sum = at(c, p->base, left) + at(c, p->head, logits), below = 0;
        int taken = !reads;
        for (Py_ssize_t k = 0; k < n || !taken;) {
            const int is_own = !taken && (k == n || own->neurons < groups[k].neurons);
            const group *next = is_own ? own : &groups[k++];
            taken |= is_own;
            if (!(next->planes & all)) continue;
            if (next->neurons > below) {
                sum += (next->neurons - below) * at(c, p->neuron, left);
                below = next->neurons;
            }
            left -= next->rows;
        }
        quiet += sum;
    }
    return quiet;
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

/* What is likely, and safe, that far ahead. */
static void stray(const deviation *d, int kind, double ahead_ms, double *middle, double *upper) {
    const double ahead = log(ahead_ms < 1e-9 ? 1e-9 : ahead_ms), *likely = d->likely[kind], *safe = d->safe[kind];
    Py_ssize_t right = 0;
    while (right < d->points && d->horizons[right] <= ahead) right++;
    if (right == 0 || right == d->points) {
        const Py_ssize_t end = right ? right - 1 : 0;
        *middle = likely[end];
        *upper = safe[end];
    } else {
        const double low = d->horizons[right - 1], share = (ahead - low) / (d->horizons[right] - low);
        *middle = likely[right - 1] + share * (likely[right] - likely[right - 1]);
        *upper = safe[right - 1] + share * (safe[right] - safe[right - 1]);
    }
}

/* Its odds: 0 with less than `hopeless` times what is likely, 1 with what is safe, evenly between, and above. */
static double chance(const deviation *d, int kind, double left_ms, double needed_ms, double hopeless) {
    double middle, upper;
    if (needed_ms < 1e-9) needed_ms = 1e-9;
    stray(d, kind, needed_ms, &middle, &upper);
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
    int bounded, elastic, decodes, apart; /* apart: it reads none of what a router prices */
    double own; /* its shape, unless it is elastic */
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
    j->apart = 0;
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
    const double *caps;    /* shapes; so are widths */
    group *fixed;          /* growing; their rows are those of the step that is being put together */
    double *shapes;        /* theirs */
    group *capped;         /* [caps] */
    double *shared;        /* [caps, n_fixed + 1]: how much of each band of neurons is below the cap */
    double now_ms, *time;  /* [caps] */
    double *first, *last;  /* [caps, n] */
    row *jobs;
    int64_t *rows, *asking; /* [n_fixed + 1]: of that step, and those of them that want logits */
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
    const double looked_ms = c->attended * attended + c->prompt_attended * prompt_attended;
    const double slowdown = total > logits ? c->slowdown * c->prompt_slowdown : c->slowdown;
    if (c->n_planes > 1) {
        for (Py_ssize_t kind = 0; kind < r->n_fixed; kind++) {
            r->fixed[kind].rows = r->rows[kind];
            r->fixed[kind].logits = r->asking[kind];
        }
        for (Py_ssize_t cap = 0; cap < r->n_caps; cap++) {
            r->capped[cap].rows = r->rows[r->n_fixed];
            r->capped[cap].logits = r->asking[r->n_fixed];
            const double each = planes_ms(c, r->fixed, r->n_fixed, &r->capped[cap]);
            r->time[cap] += slowdown * (each * steps + looked_ms) + c->overhead_ms * steps;
        }
        return;
    }
    const double quiet = (c->once + at(c, c->base, total) + at(c, c->head, logits)) * steps + looked_ms;
    const double others = slowdown * quiet + c->overhead_ms * steps, factor = slowdown * steps;
    if (!r->n_fixed) {
        const double each = at(c, c->neuron, total) * factor;
        for (Py_ssize_t cap = 0; cap < r->n_caps; cap++) r->time[cap] += r->capped[cap].neurons * each + others;
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
            const double width = r->fixed[band].neurons - (band ? r->fixed[band - 1].neurons : 0);
            sum += shared[band] * r->with[band] + (width - shared[band]) * r->alone[band];
        }
        r->time[cap] += sum * factor + others;
    }
}

/* Rows of these crews in `rows`; what they look at, themselves included, is returned. held: NULL for none. */
static int64_t together(rollout *r, const crew *free, const crew *held, int64_t *size) {
    for (Py_ssize_t kind = 0; kind <= r->n_fixed; kind++)
        r->asking[kind] = r->rows[kind] = free->rows[kind] + (held ? held->rows[kind] : 0);
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
        r->asking[each->kind] += each->pending == 0;
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
    if (!(r->fixed = NEW(a, group, n)) || !(r->capped = NEW(a, group, n_caps)) || !(r->shapes = NEW(a, double, n))) return -1;
    if (!(r->jobs = NEW(a, row, n)) || !(r->prompts = NEW(a, Py_ssize_t, n))) return -1;
    r->n_fixed = 0;
    for (Py_ssize_t i = 0; i < n; i++) {
        Py_ssize_t place = r->n_fixed;
        if (widths[i] < 0) continue;
        while (place && is_before(widths[i], r->shapes[place - 1])) place--;
        if (place && r->shapes[place - 1] == widths[i]) continue;
        memmove(r->shapes + place + 1, r->shapes + place, sizeof(double) * (r->n_fixed++ - place));
        r->shapes[place] = widths[i];
    }
    for (Py_ssize_t i = 0; i < r->n_fixed; i++) r->fixed[i] = group_of(r->shapes[i], 0, 0);
    for (Py_ssize_t i = 0; i < n_caps; i++) r->capped[i] = group_of(r->caps[i], 0, 0);
    for (Py_ssize_t i = 0; i < n; i++) {
        row *each = &r->jobs[i];
        each->cached = jobs[i].cached;
        each->pending = jobs[i].pending;
        each->left = jobs[i].left;
        each->held = held && held[i];
        each->kind = (int)r->n_fixed;
        for (int kind = 0; widths[i] >= 0 && kind < r->n_fixed; kind++)
            if (r->shapes[kind] == widths[i]) each->kind = kind;
    }
    const Py_ssize_t kinds = r->n_fixed + 1;
    if (make_crew(a, &r->free, n, kinds) || make_crew(a, &r->held, n, kinds)) return -1;
    if (!(r->rows = NEW(a, int64_t, kinds)) || !(r->asking = NEW(a, int64_t, kinds)) || !(r->with = NEW(a, double, kinds))) return -1;
    if (!(r->alone = NEW(a, double, kinds)) || !(r->shared = NEW(a, double, n_caps * kinds))) return -1;
    if (!(r->time = NEW(a, double, n_caps)) || !(r->first = NEW(a, double, n_caps * n))) return -1;
    if (!(r->last = NEW(a, double, n_caps * n))) return -1;
    for (Py_ssize_t cap = 0; cap < n_caps; cap++) {
        r->time[cap] = 0;
        for (Py_ssize_t band = 0; band < kinds; band++) {
            const double below = band ? r->fixed[band - 1].neurons : 0;
            const double above = band < r->n_fixed ? r->fixed[band].neurons : NEVER;
            r->shared[cap * kinds + band] = fmin(fmax(r->capped[cap].neurons, below), above) - below;
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
   widths: a dict of shapes by id; caps: shapes; held: a set of ids. The two: [caps, jobs], as bytes. */
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

/* The step of n groups, the widest last, and of rows that have the shape: all of them want logits, or as many. */
static double step_ms(const costs *c, const group *groups, Py_ssize_t n, double shape, int64_t rows, int64_t logits) {
    const group own = group_of(shape, rows, logits);
    int64_t silent = rows - logits;
    for (Py_ssize_t i = 0; i < n; i++) silent += groups[i].rows - groups[i].logits;
    const double quiet = planes_ms(c, groups, n, &own);
    return c->slowdown * (silent > 0 ? quiet * c->prompt_slowdown : quiet) + c->overhead_ms;
}

/* As DeadlinePolicy._widened: an option by its place. without: of each job, whether it is left out; or NULL. */
static Py_ssize_t widened(const plan *p, const costs *c, int64_t chunk, Py_ssize_t cap, const char *without,
                          const double *options, Py_ssize_t n_options, double free) {
    group *groups = NEW(p->a, group, p->begun);
    int64_t rows = 0;
    Py_ssize_t n = 0;
    int beyond = 0;
    if (!groups) return -1;
    for (Py_ssize_t i = 0; i < p->begun; i++) {
        const job *j = &p->jobs[i];
        if (without && without[i]) continue;
        if (j->elastic) {
            rows += j->decodes;
            continue;
        }
        const int64_t taken = j->pending < chunk ? j->pending : chunk;
        const group own = group_of(j->own, taken, taken == j->pending);
        Py_ssize_t place = n++;
        for (; place && groups[place - 1].neurons > own.neurons; place--) groups[place] = groups[place - 1];
        groups[place] = own;
        beyond |= exceeds(j->own, options[cap]);
    }
    if (!rows || !beyond) return cap;
    const double limit = step_ms(c, groups, n, options[cap], rows, rows) * (1 + free);
    for (Py_ssize_t wide = 0; wide < n_options; wide++)
        if (step_ms(c, groups, n, options[wide], rows, rows) <= limit) return wide;
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
    int failed = !full || !PyTuple_Check(elastic) || number(full, s_shape, universal);
    if (!failed) {
        *n = PyTuple_GET_SIZE(elastic);
        failed = !(*options = NEW(a, double, *n));
        for (Py_ssize_t i = 0; !failed && i < *n; i++) failed = number(PyTuple_GET_ITEM(elastic, i), s_shape, *options + i);
    }
    Py_XDECREF(elastic);
    Py_XDECREF(full);
    if (failed && !PyErr_Occurred()) PyErr_SetString(PyExc_TypeError, "a menu's options come as a tuple");
    return failed ? -1 : 0;
}

/* A request that waits. */
typedef struct entry {
    double moment, arrived_ms, start_by;
    long long id;
    Py_ssize_t place;
} entry;

static int earlier(const void *left, const void *right) {
    const entry *l = left, *r = right;
    if (l->moment != r->moment) return l->moment < r->moment ? -1 : 1;
    if (l->arrived_ms != r->arrived_ms) return l->arrived_ms < r->arrived_ms ? -1 : 1;
    return l->id < r->id ? -1 : l->id > r->id;
}

/* The least of a heap becomes `value`. */
static void replace_least(double *heap, int64_t size, double value) {
    int64_t place = 0;
    for (int64_t child = 1; child < size; child = 2 * place + 1) {
        if (child + 1 < size && heap[child + 1] < heap[child]) child++;
        if (heap[child] >= value) break;
        heap[place] = heap[child];
        place = child;
    }
    heap[place] = value;
}

/* order(running, waiting, now_ms, capacity, menu, costs, patience) -> the waiting jobs, that in front which is to start
   first: queue_order.py, where all have the same priority; None where they have not. */
static PyObject *order(PyObject *module, PyObject *args) {
    PyObject *running, *waiting, *capacity, *menu, *costs_object, *patience, *result = NULL;
    arena a = {0};
    costs c;
    double now_ms, universal, *options, unbudgeted_ms, late_ms;
    int64_t slots, chunk, size = 0;
    Py_ssize_t n_options, timely = 0;
    if (!PyArg_ParseTuple(args, "OOdOOOO", &running, &waiting, &now_ms, &capacity, &menu, &costs_object, &patience))
        return NULL;
    if (read_menu(menu, &a, &universal, &options, &n_options) || read_costs(costs_object, &a, &c)) goto end;
    job *jobs = read_jobs(running, waiting, universal, &a);
    if (!jobs || whole(capacity, s_slots, &slots) || whole(capacity, s_chunk_tokens, &chunk)) goto end;
    if (number(patience, s_unbudgeted_ms, &unbudgeted_ms) || number(patience, s_late_ms, &late_ms)) goto end;
    const Py_ssize_t begun = PyTuple_GET_SIZE(running), n = PyTuple_GET_SIZE(waiting);
    const double narrowest = options[n_options - 1], step = step_ms(&c, NULL, 0, narrowest, slots, slots);
    const double prompt = step_ms(&c, NULL, 0, narrowest, chunk, 1) / chunk;
    entry *entries = NEW(&a, entry, n);
    double *free = NEW(&a, double, slots + begun);
    if (!entries || !free) goto end;
    int may_start = 1;
    while (size < slots - begun) free[size++] = now_ms; /* these are the least: no heap has to be made of them */
    for (Py_ssize_t i = 0; i < begun; i++) {
        const job *j = &jobs[i];
        const double takes = now_ms + ((j->decodes ? 0 : prompt * j->pending) + step * j->left);
        int64_t place = size++;
        for (; place && free[(place - 1) / 2] > takes; place = (place - 1) / 2) free[place] = free[(place - 1) / 2];
        free[place] = takes;
        may_start &= j->bounded;
    }
    for (Py_ssize_t i = 0; i < n; i++) { /* in the order of arrival; those that can be in time to the front */
        const job *j = &jobs[begun + i];
        entry each = {.arrived_ms = j->arrived_ms, .id = PyLong_AsLongLong(j->id), .place = i};
        if (j->t.priority != jobs[begun].t.priority) {
            result = Py_NewRef(Py_None);
            goto end;
        }
        if (each.id == -1 && PyErr_Occurred()) goto end;
        if (!j->bounded) {
            const int aged = may_start && now_ms - j->arrived_ms >= unbudgeted_ms;
            may_start &= !aged;
            each.moment = aged ? -INFINITY : INFINITY;
            entries[i] = each;
            continue;
        }
        const double reading = prompt * j->pending, steps = step * (j->left - 1);
        if (isnan(j->first_ms)) {
            each.start_by = fmin(j->arrived_ms + j->t.ttft_ms - reading, j->arrived_ms + j->t.e2e_ms - reading - steps);
        } else {
            const double due = fmin(j->t.e2e_ms, j->first_ms - j->arrived_ms + j->t.tpot_ms * (j->t.most - 1));
            each.start_by = j->arrived_ms + due - reading - steps;
        }
        if (isnan(each.start_by)) each.start_by = INFINITY;
        each.moment = each.start_by < now_ms ? j->arrived_ms + late_ms : fmin(each.start_by, j->arrived_ms + unbudgeted_ms);
        entries[i] = each;
        if (each.start_by >= now_ms) {
            entries[i] = entries[timely];
            entries[timely++] = each;
        }
    }
    qsort(entries, (size_t)timely, sizeof(entry), earlier);
    for (Py_ssize_t i = 0; i < timely; i++) { /* one that would be late makes way */
        const job *j = &jobs[begun + entries[i].place];
        if (free[0] <= entries[i].start_by)
            replace_least(free, size, fmax(free[0], now_ms) + ((j->decodes ? 0 : prompt * j->pending) + step * j->left));
        else
            entries[i].moment = j->arrived_ms + late_ms;
    }
    qsort(entries, (size_t)n, sizeof(entry), earlier);
    result = PyTuple_New(n);
    for (Py_ssize_t i = 0; result && i < n; i++)
        PyTuple_SET_ITEM(result, i, Py_NewRef(PyTuple_GET_ITEM(waiting, entries[i].place)));
end:
    release(&a);
    return result;
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
        held[i] = i < begun && !j->bounded && j->decodes && exceeds(j->own, options[n_options - 1]);
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
    arena a = {0};
    if (!PyArg_ParseTuple(args, "OOOOOO", &running, &waiting, &menu, &cap, &decoding, &late)) return NULL;
    PyObject *full = PyObject_GetAttr(menu, s_universal), *elastic = full ? PyObject_GetAttr(menu, s_elastic) : NULL;
    job *jobs = elastic && PyTuple_Check(elastic) ? read_jobs(running, waiting, 0, &a) : NULL;
    if (jobs) options = PyDict_New();
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
        } else if (!j->decodes || decoding == cap) {
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

/* Milliseconds at no width, and for each neuron of it: Least of serve/routing/outlook.py. By kind of bound. */
typedef struct least {
    double start[KINDS], slope[KINDS];
} least;

/* What a router knows of a replica ahead: Outlook of serve/routing/outlook.py. */
typedef struct outlook {
    const costs *c;
    const deviation *d; /* its least up to each horizon */
    const job *jobs;
    Py_ssize_t n; /* that run */
    const double *decode, *decode_neuron, *read, *read_neuron, *head;
    Py_ssize_t points; /* of the first two */
    int64_t slots, chunk;
    double narrowest, widest;
    double hopeless, given; /* how much less of the budgets a policy may expect to keep */
    int64_t fixed_end, decoding, ahead;
    double fixed;
    int may_hold;
    Py_ssize_t reading; /* of those that run, how many read what is priced */
} outlook;

static int counts(const outlook *o, const job *j) { return !j->apart && (j->elastic || j->own >= o->widest); }

/* Whether its last token is its next bound. */
static int is_due(const job *j) {
    return j->elastic && (!isnan(j->first_ms) || isnan(j->t.ttft_ms)) && due_ms(j) < INFINITY;
}

static void look_ahead(outlook *o) {
    Py_ssize_t wide = 0;
    o->decoding = o->ahead = o->fixed_end = o->reading = 0;
    o->fixed = 0;
    for (Py_ssize_t i = 0; i < o->n; i++) {
        const job *j = &o->jobs[i];
        if (j->decodes)
            o->decoding++;
        else
            o->ahead += j->pending;
        o->reading += !j->apart;
        if (j->elastic) continue;
        wide += j->decodes && !j->bounded && (j->apart || j->own > o->narrowest);
        if (!counts(o, j)) continue;
        o->fixed = o->fixed && o->fixed < j->own ? o->fixed : j->own;
        o->fixed_end = o->fixed_end > j->left ? o->fixed_end : j->left;
    }
    o->may_hold = 0 < wide && wide < o->n;
}

static double between(const double *curve, Py_ssize_t points, double rows) {
    const Py_ssize_t low = (Py_ssize_t)rows < points - 2 ? (Py_ssize_t)rows : points - 2;
    const double part = rows - low;
    return curve[low] * (1 - part) + curve[low + 1] * part;
}

/* Outlook.least. width: what it runs; negative for any. */
static least least_of(const outlook *o, const terms *t, int64_t shared, double width, int alone) {
    const costs *c = o->c;
    const int64_t length = (int64_t)t->prompt, steps = (int64_t)t->most - 1;
    const int64_t pending = length > shared ? length - shared : 1;
    int64_t waits = 0, counting = 0;
    for (Py_ssize_t i = 0; i < o->n; i++) {
        counting += counts(o, &o->jobs[i]);
        if (!alone && o->n >= o->slots && (i == 0 || o->jobs[i].left < waits)) waits = o->jobs[i].left;
    }
    const int64_t decoding = alone || waits ? 0 : o->decoding, ahead = alone || waits ? 0 : o->ahead;
    const int64_t rows = pending + (ahead > 0 ? ahead : 0) + decoding, pieces = (rows + o->chunk - 1) / o->chunk;
    const int64_t last = rows - (pieces - 1) * o->chunk, begin = waits + pieces, until = begin + steps;
    int64_t together = 0, as_wide = 0;
    double attended = steps * (length + (steps + 1) / 2.0), fixed = 0;
    if (!alone) {
        for (Py_ssize_t i = 0; i < o->n; i++) {
            const job *j = &o->jobs[i];
            if (j->left <= begin) continue;
            const int64_t stop = j->left < until ? j->left : until;
            together += (stop - begin) * !j->apart;
            as_wide += (stop - begin) * counts(o, j);
            attended += (stop - begin) * ((int64_t)j->t.prompt + j->produced + (begin + stop - 1) / 2.0);
        }
        const int64_t ends = o->fixed_end < until ? o->fixed_end : until;
        fixed = o->fixed * (ends > begin ? ends - begin : 0);
    }
    const double slow = c->slowdown, over = c->overhead_ms, slowed = slow * c->prompt_slowdown;
    const int64_t beside = last - decoding;
    const double last_slow = (pending < beside ? pending : beside) > 1 ? slowed : fmin(slow, slowed);
    const double looked = fmin(c->attended, c->prompt_attended) * pending * (length + shared) / 2;
    int64_t full = o->chunk, end = last, asking = decoding < o->chunk ? decoding + 1 : o->chunk;
    if (o->reading < o->n && !alone && !waits) { /* how many of a piece's rows read what is priced is not known */
        full = ahead || decoding > o->chunk ? 0 : o->chunk - decoding;
        end = pending < last ? pending : last;
        asking = 1;
    }
    double read = slowed * (pieces - 1) * o->read[full] + last_slow * (o->read[end] + o->head[asking]);
    read += fmin(slow, slowed) * looked + over * pieces;
    const double own_neuron = last_slow * o->read_neuron[pending < last ? pending : last];
    double read_neuron = own_neuron;
    if (counting == o->n) read_neuron = slowed * (pieces - 1) * o->read_neuron[o->chunk] + last_slow * o->read_neuron[last];
    if (waits) {
        const double busy = o->reading < o->slots && o->reading < o->n ? o->reading : o->slots;
        read += waits * ((busy ? slow * between(o->decode, o->points, busy) : 0) + over);
        if (counting) read_neuron += waits * slow * between(o->decode_neuron, o->points, counting);
    }
    const double count = steps > 1 ? steps : 1, slots = o->slots;
    double token = between(o->decode, o->points, fmin(1 + together / count, slots)) + c->attended * attended / count;
    token = slow * token + over;
    double token_neuron = slow * between(o->decode_neuron, o->points, fmin(1 + as_wide / count, slots));
    const double one = o->decode_neuron[1];
    if (width >= 0) {
        const double above = fmax(0, width - o->narrowest);
        read += read_neuron * o->narrowest + own_neuron * above;
        token += token_neuron * o->narrowest + slow * above * one;
        read_neuron = token_neuron = 0;
    } else if (o->fixed && !alone) {
        token += slow * one * fixed / count;
        token_neuron -= slow * one * fixed / count / o->fixed;
    }
    return (least){{read, token, read + steps * token}, {read_neuron, token_neuron, read_neuron + steps * token_neuron}};
}

#define ROUNDING (1 + 1e-9) /* as budget_router.py has these */
#define LEAST_MS 1e-3
#define SOON 1.1

/* budget_router.py's _widest: negative where the budget is not kept even with the fewest neurons. */
static double widest(const outlook *o, const terms *t, const least *l) {
    const double limits[KINDS] = {t->ttft_ms, t->tpot_ms, t->e2e_ms}, steps = t->most - 1;
    double most = INFINITY;
    for (int kind = 0; kind < KINDS; kind++) {
        const double limit = limits[kind] * ROUNDING, start = l->start[kind], slope = l->slope[kind];
        if (isnan(limit) || (kind == 1 && !steps)) continue;
        double likely, safe;
        stray(o->d, kind, kind == 1 ? limits[kind] * steps : limits[kind], &likely, &safe);
        if ((start + slope * o->narrowest) * safe > limit) return -1;
        const double needed = safe - o->given * (safe - o->hopeless * likely);
        if (slope > 0) most = fmin(most, (limit / needed - start) / slope);
    }
    return most;
}

/* budget_router.py's _admitted. */
static double admitted(const outlook *o, const least *l, double now_ms) {
    const int waits = o->n >= o->slots;
    double most = INFINITY;
    for (Py_ssize_t i = 0; i < o->n; i++) {
        const job *j = &o->jobs[i];
        if (!is_due(j)) continue;
        const double start = (waits ? 0 : l->start[0]) + j->left * l->start[1], left_ms = due_ms(j) - now_ms;
        const double slope = (waits ? 0 : l->slope[0]) + j->left * l->slope[1];
        double likely, safe;
        stray(o->d, 2, left_ms, &likely, &safe);
        if (slope == 0) {
            if (start * safe > left_ms) most = -1;
        } else if (left_ms > (start + slope * o->narrowest) * o->hopeless * likely)
            most = fmin(most, (left_ms / safe - start) / slope);
    }
    return most;
}

/* rank(request, running, waiting, now_ms, capacity, menu, costs, deviation, thresholds, prices, shared, planes, apart)
   -> state, value
   Of budget_router.py's _best: 0 and the most neurons with which the budget is kept, 1 if it is where others are held,
   2 and the share by which it is missed; without a budget 0 or 1 and when it ends. prices: of outlook.py, as bytes.
   planes: that are priced, or 0 for all. apart: whether rows whose width may be chosen may read others. */
static PyObject *rank(PyObject *module, PyObject *args) {
    PyObject *request, *running, *waiting, *capacity, *menu, *costs_object, *deviation_object, *thresholds;
    PyObject *packed = NULL, *result = NULL;
    Py_ssize_t n_options, n_prices[5];
    const char *prices[5];
    double now_ms, universal, *options, worth, worth_most, value;
    long long shared;
    int planes, apart;
    arena a = {0};
    costs c;
    deviation d;
    terms t;
    outlook o = {.c = &c, .d = &d};
    if (!PyArg_ParseTuple(args, "OOOdOOOOO(y#y#y#y#y#)Lip", &request, &running, &waiting, &now_ms, &capacity, &menu,
                          &costs_object, &deviation_object, &thresholds, &prices[0], &n_prices[0], &prices[1],
                          &n_prices[1], &prices[2], &n_prices[2], &prices[3], &n_prices[3], &prices[4], &n_prices[4],
                          &shared, &planes, &apart))
        return NULL;
    if (read_menu(menu, &a, &universal, &options, &n_options) || read_costs(costs_object, &a, &c)) goto end;
    job *jobs = read_jobs(running, waiting, universal, &a);
    if (!jobs || read_deviation(deviation_object, &a, &d)) goto end;
    if (whole(capacity, s_slots, &o.slots) || whole(capacity, s_chunk_tokens, &o.chunk)) goto end;
    if (number(thresholds, s_hopeless, &o.hopeless) || number(thresholds, s_worth, &worth)) goto end;
    if (number(thresholds, s_worth_most, &worth_most) || !(packed = PyObject_GetAttr(request, s_terms))) goto end;
    if (!PyBytes_Check(packed) || PyBytes_GET_SIZE(packed) != sizeof(terms)) goto wrong;
    memcpy(&t, PyBytes_AS_STRING(packed), sizeof(terms));
    for (int i = 0; i < 5; i++)
        if (n_prices[i] != (Py_ssize_t)sizeof(double) * ((i < 2 ? o.slots : o.chunk) + 1)) goto wrong;
    for (int kind = 0; kind < KINDS; kind++)
        for (Py_ssize_t i = 1; i < d.points; i++) {
            d.likely[kind][i] = fmin(d.likely[kind][i], d.likely[kind][i - 1]);
            d.safe[kind][i] = fmin(d.safe[kind][i], d.safe[kind][i - 1]);
        }
    if (t.pinned >= 0) t.pinned = neurons_of(t.pinned);
    universal = neurons_of(universal);
    double bounded = 1;
    const Py_ssize_t all = PyTuple_GET_SIZE(running) + PyTuple_GET_SIZE(waiting);
    for (Py_ssize_t i = 0; i < all; i++) {
        jobs[i].apart = planes && (jobs[i].elastic ? apart : (planes_of(jobs[i].own) & planes) != planes);
        jobs[i].own = neurons_of(jobs[i].own);
        bounded += jobs[i].bounded;
    }
    o.jobs = jobs;
    o.n = PyTuple_GET_SIZE(running);
    o.decode = (const double *)prices[0];
    o.decode_neuron = (const double *)prices[1];
    o.read = (const double *)prices[2];
    o.read_neuron = (const double *)prices[3];
    o.head = (const double *)prices[4];
    o.points = o.slots + 1;
    o.narrowest = neurons_of(options[n_options - 1]);
    o.widest = neurons_of(options[0]);
    o.given = fmin(worth * bounded, worth_most);
    look_ahead(&o);
    const int has_budget = !(isnan(t.ttft_ms) && isnan(t.tpot_ms) && isnan(t.e2e_ms));
    const double width = has_budget && t.pinned < 0 ? -1 : t.pinned < 0 ? universal : t.pinned;
    const least l = least_of(&o, &t, width < 0 ? 0 : shared, width, 0);
    int state = 0;
    if (!has_budget) {
        state = admitted(&o, &l, now_ms) < 0;
        value = l.start[2] * SOON;
    } else if ((value = widest(&o, &t, &l)) >= 0) {
        if (width < 0) value = fmin(value, admitted(&o, &l, now_ms));
    } else {
        const least apart = least_of(&o, &t, 0, width, 1);
        state = o.may_hold && widest(&o, &t, &apart) >= 0 ? 1 : 2;
        value = 0;
        if (state == 2) {
            const double limits[KINDS] = {t.ttft_ms, t.tpot_ms, t.e2e_ms};
            value = -INFINITY;
            for (int kind = 0; kind < KINDS; kind++)
                if (!isnan(limits[kind]))
                    value = fmax(value, (l.start[kind] + l.slope[kind] * o.narrowest) / fmax(limits[kind], LEAST_MS));
        }
    }
    result = Py_BuildValue("id", state, value);
    goto end;
wrong:
    PyErr_SetString(PyExc_ValueError, "the prices, or the request's terms, are of another length");
end:
    Py_XDECREF(packed);
    release(&a);
    return result;
}

static PyMethodDef methods[] = {
    {"forecast", forecast, METH_VARARGS, "forecast.py's forecast."},
    {"odds", odds, METH_VARARGS, "forecast.py's Forecast.odds."},
    {"decide", decide, METH_VARARGS, "deadline.py's decision."},
    {"rank", rank, METH_VARARGS, "budget_router.py's look ahead."},
    {"order", order, METH_VARARGS, "queue_order.py's order."},
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
        {&s_chunk_tokens, "chunk_tokens"}, {&s_shape, "shape"}, {&s_universal, "universal"},
        {&s_elastic, "elastic"}, {&s_grid, "grid"}, {&s_curves, "curves"}, {&s_once, "once"},
        {&s_attended, "attended"}, {&s_prompt_attended, "prompt_attended"}, {&s_slowdown, "slowdown"},
        {&s_prompt_slowdown, "prompt_slowdown"}, {&s_overhead_ms, "overhead_ms"}, {&s_horizons_ms, "horizons_ms"},
        {&s_likely, "likely"}, {&s_safe, "safe"}, {&s_hopeless, "hopeless"}, {&s_worth, "worth"},
        {&s_worth_most, "worth_most"}, {&s_hold_worth, "hold_worth"}, {&s_hold_every, "hold_every"}, {&s_free, "free"},
        {&s_unbudgeted_ms, "unbudgeted_ms"}, {&s_late_ms, "late_ms"},
    };
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        if (!*names[i].at && !(*names[i].at = PyUnicode_InternFromString(names[i].name))) return NULL;
    PyObject *made = PyModule_Create(&module);
    if (made && PyModule_AddIntConstant(made, "VERSION", 3)) Py_CLEAR(made);
    return made;
}
