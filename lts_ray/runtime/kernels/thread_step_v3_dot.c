/* The step for CPUs with AVX2, FMA and products of bytes that add up to 32 bits. */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC target("arch=x86-64-v3")
#pragma GCC target("avxvnni")
#define THREAD_STEP thread_step_v3_dot
#include "thread_step.h"
void (*const lts_thread_step_v3_dot)(void *, int) = thread_step_v3_dot;
#endif
