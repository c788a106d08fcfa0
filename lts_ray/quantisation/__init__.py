"""Weights in 8 and in 4 bits, of which the 4 are the upper half of the 8: one copy, two precisions."""
