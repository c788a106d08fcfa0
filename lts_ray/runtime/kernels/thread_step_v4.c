/* The step for CPUs with AVX-512. */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC target("arch=x86-64-v4")
#define THREAD_STEP thread_step_v4
#include "thread_step.h"
void (*const lts_thread_step_v4)(void *, int) = thread_step_v4;
#endif
