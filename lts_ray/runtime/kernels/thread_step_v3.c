/* The step for CPUs with AVX2 and FMA. */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC target("arch=x86-64-v3")
#define THREAD_STEP thread_step_v3
#include "thread_step.h"
void (*const lts_thread_step_v3)(void *, int) = thread_step_v3;
#endif
