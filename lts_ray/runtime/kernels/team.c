#include "team.h"

#include <stdlib.h>

typedef struct helper {
    team *of;
    int member;
} helper;

enum { OPEN = 1 << 16 };

/* False once the caller has nothing left to share. */
static int come_in(team *t) {
    for (int door = atomic_load(&t->door); door & OPEN;)
        if (atomic_compare_exchange_weak(&t->door, &door, door + 1)) return 1;
    return 0;
}

static void *helper_main(void *argument) {
    helper *self = argument;
    team *t = self->of;
    for (long seen = 0;;) {
        for (int spins = 0; atomic_load(&t->round) == seen && spins < SPINS;) relax(&spins);
        if (atomic_load(&t->round) == seen) {
            pthread_mutex_lock(&t->mutex);
            while (atomic_load(&t->round) == seen) pthread_cond_wait(&t->wake, &t->mutex);
            pthread_mutex_unlock(&t->mutex);
        }
        seen = atomic_load(&t->round);
        if (atomic_load(&t->stopping)) return NULL;
        if (come_in(t)) {
            t->work(t->job, self->member);
            atomic_fetch_sub(&t->door, 1);
        }
    }
}

static void wake_all(team *t) {
    pthread_mutex_lock(&t->mutex);
    atomic_fetch_add(&t->round, 1);
    pthread_cond_broadcast(&t->wake);
    pthread_mutex_unlock(&t->mutex);
}

void team_run(team *t, void (*work)(void *, int), void *job) {
    t->work = work;
    t->job = job;
    if (t->size > 1) {
        atomic_store(&t->door, OPEN);
        wake_all(t);
    }
    work(job, 0);
    atomic_fetch_and(&t->door, ~OPEN);
    for (int spins = 0; atomic_load(&t->door);) relax(&spins);
}

void team_free(team *t) {
    if (t->size > 1) {
        atomic_store(&t->stopping, 1);
        wake_all(t);
        for (int i = 1; i < t->size; i++) pthread_join(t->threads[i], NULL);
    }
    pthread_mutex_destroy(&t->mutex);
    pthread_cond_destroy(&t->wake);
    free(t->threads);
    free(t->helpers);
    free(t);
}

team *team_new(int size) {
    team *t = calloc(1, sizeof *t);
    if (!t) return NULL;
    t->threads = calloc((size_t)size, sizeof *t->threads);
    t->helpers = calloc((size_t)size, sizeof *t->helpers);
    pthread_mutex_init(&t->mutex, NULL);
    pthread_cond_init(&t->wake, NULL);
    t->size = 1;
    for (int i = 1; t->threads && t->helpers && i < size; i++) {
        t->helpers[i] = (helper){t, i};
        if (pthread_create(&t->threads[i], NULL, helper_main, &t->helpers[i])) break;
        t->size = i + 1;
    }
    if (t->size == size) return t;
    team_free(t);
    return NULL;
}
