"""How a per-layer choice is spread over depth, in three numbers that do not depend on how many layers there are."""

from __future__ import annotations

from collections.abc import Sequence


def depth_moments(values: Sequence[float]) -> tuple[float, float, float]:
    """Means of the values weighted by the Legendre polynomials of order 0, 1 and 2 over depth from -1 to 1.

    The mean, the slope (later layers against earlier ones) and the curvature (both ends against the middle).
    """
    n = len(values)
    depths = [2 * layer / (n - 1) - 1 if n > 1 else 0.0 for layer in range(n)]
    slope = sum(value * depth for value, depth in zip(values, depths, strict=True)) / n
    curvature = sum(value * (3 * depth**2 - 1) / 2 for value, depth in zip(values, depths, strict=True)) / n
    return sum(values) / n, slope, curvature
