/* The step for whatever CPU the compiler was told. */
#define WORKER worker_any
#include "worker.h"
void (*const lts_worker_any)(void *, int) = worker_any;
