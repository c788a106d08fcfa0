/* The threads that run a step together: the caller and some helpers, which sleep between steps.

   Work is taken from counters, piece by piece, so a thread that the system has put aside delays one piece, not its
   whole share. Waiting threads give their core away after a short while: others may need it. */
#ifndef LTS_TEAM_H
#define LTS_TEAM_H

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

typedef struct team {
    int size;
    void (*work)(void *job, int member);
    void *job;
    _Atomic long round; /* grows with every step */
    _Atomic int stopping;
    _Atomic int arrived;
    _Atomic long phase;
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    pthread_t *threads;
    struct helper *helpers;
} team;

typedef struct helper {
    team *of;
    int member;
} helper;

enum { SPINS = 2000 };

static inline void relax(int *spins) {
    if (++*spins < SPINS) {
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
    } else {
        sched_yield();
    }
}

/* Everybody waits here until everybody is here. */
static inline void meet(team *t) {
    if (t->size == 1) return;
    long phase = atomic_load(&t->phase);
    if (atomic_fetch_add(&t->arrived, 1) == t->size - 1) {
        atomic_store(&t->arrived, 0);
        atomic_store(&t->phase, phase + 1);
        return;
    }
    for (int spins = 0; atomic_load(&t->phase) == phase;) relax(&spins);
}

/* NULL when the system gives no memory or no threads. */
team *team_new(int size);
void team_free(team *t);

/* Let every member run `work`; nobody is inside it any more when this returns. */
void team_run(team *t, void (*work)(void *, int), void *job);

#endif
