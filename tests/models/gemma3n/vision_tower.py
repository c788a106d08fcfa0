"""How many parameters the vision tower of the published models has: MobileNet-V5 of 300 M, an encoder without a head.

Counted from its description, as the tower itself is in a package that is not needed otherwise. All convolutions are
without biases; every norm has a scale of its channels.
"""

from __future__ import annotations


def edge_residual(channels: int, out: int) -> int:
    """3 × 3 into four times the channels, then 1 × 1."""
    middle = 4 * channels
    return 9 * channels * middle + middle + middle * out + out


def inverted_residual(
    channels: int, out: int, *, first: int = 0, middle: int = 0, expansion: int, scaled: bool = True
) -> int:
    """1 × 1 into more channels and back; depthwise convolutions of sizes `first` and `middle` before and between."""
    wide = channels * expansion
    depthwise = (first**2 + 1) * channels * (first > 0) + (middle**2 + 1) * wide * (middle > 0)
    return depthwise + channels * wide + wide + wide * out + out + out * scaled


def attention(channels: int, *, heads: int, d_head: int, strided: bool) -> int:
    """Multi-query: keys and values have one head, and where strided a depthwise 3 × 3 with a norm before them."""
    queries_and_output = 2 * channels * heads * d_head
    keys_and_values = 2 * (channels * d_head + strided * (9 + 1) * channels)
    return channels + queries_and_output + keys_and_values + channels


def vision_params() -> int:
    stem = 9 * 3 * 64 + 64
    stages = [
        edge_residual(64, 128) + 2 * edge_residual(128, 128),
        inverted_residual(128, 256, first=3, middle=5, expansion=6)
        + 2 * inverted_residual(256, 256, first=5, expansion=4)
        + 2 * inverted_residual(256, 256, first=3, expansion=4),
        inverted_residual(256, 640, first=5, middle=5, expansion=6)
        + 7 * inverted_residual(640, 640, first=5, expansion=4)
        + inverted_residual(640, 640, expansion=1)
        + 14 * attention(640, heads=12, d_head=64, strided=True)
        + 14 * inverted_residual(640, 640, expansion=2),
        inverted_residual(640, 1280, first=5, middle=5, expansion=6)
        + 19 * attention(1280, heads=16, d_head=96, strided=False)
        + 19 * inverted_residual(1280, 1280, expansion=2),
    ]
    fusion = inverted_residual(640 + 1280, 2048, expansion=2, scaled=False) + 2048
    return stem + sum(stages) + fusion
