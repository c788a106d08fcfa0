"""Random numbers of torch's from a seed of 64 bits."""

from __future__ import annotations

import numpy as np
import torch

FIRST_WORD, WORDS = 3, 624
"""Where, in the 8-byte words of torch's generator on a CPU, the state of its Mersenne Twister stands, and how long."""


def seeded_generator(seed: int) -> torch.Generator:
    """On the CPU. All 64 bits count, of negative seeds too, where torch itself looks at the lower 32 alone.

    Seeds below 2**32 give what torch gives for them.
    """
    seed %= 2**64
    generator = torch.Generator().manual_seed(seed)
    if seed >= 2**32:
        state = generator.get_state()
        state.numpy().view(np.uint64)[FIRST_WORD : FIRST_WORD + WORDS] = np.random.MT19937(seed).state["state"]["key"]
        generator.set_state(state)
    return generator
