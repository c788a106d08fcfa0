/* The step for whatever CPU the compiler was told. */
#define THREAD_STEP thread_step_any
#include "thread_step.h"
void (*const lts_thread_step_any)(void *, int) = thread_step_any;
