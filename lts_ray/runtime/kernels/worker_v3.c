/* The step for CPUs with AVX2 and FMA. */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC target("arch=x86-64-v3")
#define WORKER worker_v3
#include "worker.h"
void (*const lts_worker_v3)(void *, int) = worker_v3;
#endif
