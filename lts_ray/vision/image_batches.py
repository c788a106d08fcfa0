"""Which images a step trains on, and how far each is moved: functions of the seed and the step, so that runs resume."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from lts_ray.vision.images import Images

ORDER, SHIFTS = 2, 3
"""Tell these streams of a run's seed from that of the objective's draws."""


@dataclass(frozen=True, kw_only=True)
class ImageBatches:
    """Every image once before any comes again."""

    images: Images
    batch_size: int
    seed: int
    shift_pixels: int = 0
    """How far an image may be moved each way."""

    def batch(self, step: int) -> Images:
        """Of `batch_size` images."""
        start, count = step * self.batch_size, len(self.images)
        places = [divmod(place, count) for place in range(start, start + self.batch_size)]
        orders = {epoch: self._order(epoch) for epoch in {epoch for epoch, _ in places}}
        chosen = torch.tensor([int(orders[epoch][place]) for epoch, place in places])
        pixels = self.images.pixels[chosen]
        if self.shift_pixels:
            rng = np.random.default_rng([self.seed, step, SHIFTS])
            offsets = rng.integers(0, 2 * self.shift_pixels + 1, size=(len(chosen), 2))
            pixels = shifted(pixels, torch.from_numpy(offsets), self.shift_pixels)
        return Images(pixels, self.images.labels[chosen])

    def _order(self, epoch: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        return np.random.default_rng([self.seed, epoch, ORDER]).permutation(len(self.images))


def shifted(pixels: Tensor, offsets: Tensor, most: int) -> Tensor:
    """Each image moved by its offset less `most`, down and right; its border goes on past its edge.

    pixels: [N, C, H, W], and so is the result. offsets: [N, 2] of 0 to 2 · most.
    """
    height, width = pixels.shape[2:]
    padded = functional.pad(pixels, (most,) * 4, mode="replicate")
    down = 2 * most - offsets[:, :1] + torch.arange(height)  # [N, H]
    right = 2 * most - offsets[:, 1:] + torch.arange(width)  # [N, W]
    image = torch.arange(len(pixels))[:, None, None]
    return padded[image, :, down[:, :, None], right[:, None, :]].permute(0, 3, 1, 2)  # from [N, H, W, C]
