/* The step for CPUs with AVX-512. */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC target("arch=x86-64-v4")
#define WORKER worker_v4
#include "worker.h"
void (*const lts_worker_v4)(void *, int) = worker_v4;
#endif
