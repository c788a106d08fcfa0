"""A step on a GPU: its weights, what it reads, the order of its kernels, and the graphs that replay them."""
