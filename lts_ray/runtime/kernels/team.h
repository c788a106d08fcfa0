/* The threads that run a step together: the caller and some helpers, which sleep between steps.

   A step is a row of phases, a phase some pieces of work. A thread that is free takes the next piece; a phase is over
   when all its pieces are done. So no thread waits for one that the system has put aside, unless that one has a piece in
   hand: on a busy machine the caller goes on alone. */
#ifndef LTS_TEAM_H
#define LTS_TEAM_H

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>

typedef struct {
    _Atomic int64_t taken, done;
} phase;

typedef struct team {
    int size;
    void (*work)(void *job, int member);
    void *job;
    _Atomic long round; /* grows with every step */
    _Atomic int door;   /* helpers inside the step, and whether more may come in */
    _Atomic int stopping;
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    pthread_t *threads;
    struct helper *helpers;
} team;

/* NULL when the system gives no memory or no threads. */
team *team_new(int size);
void team_free(team *t);

/* Let the caller, and the helpers that come in time, run `work`; no thread is inside it any more when this returns. */
void team_run(team *t, void (*work)(void *, int), void *job);

enum { SPINS = 2000 }; /* some ten microseconds; then the core is given away, others may need it */

static inline void relax(int *spins) {
    if (++*spins < SPINS) {
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
    } else {
        sched_yield();
    }
}

/* The next piece of a phase; from its number of pieces on there is none. */
static inline int64_t take(phase *p) { return atomic_fetch_add_explicit(&p->taken, 1, memory_order_relaxed); }

static inline void finish(phase *p) { atomic_fetch_add_explicit(&p->done, 1, memory_order_release); }

static inline void await(phase *p, int64_t pieces) {
    for (int spins = 0; atomic_load_explicit(&p->done, memory_order_acquire) < pieces;) relax(&spins);
}

#endif
