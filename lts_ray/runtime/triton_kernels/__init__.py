"""Triton kernels of a step on a GPU: each takes plain tensors, and runs in the interpreter as well."""
