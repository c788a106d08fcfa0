"""Images with their classes: scikit-learn's digits, or a folder of .npz files; and which of them are held out.

A fifth is held out, chosen by a hash of each image's pixels: the same image is always on the same side, however many
others there are, and no copy of it is on the other.
"""

from __future__ import annotations

import hashlib
import importlib
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lts_ray.errors import LtsRayError
from lts_ray.models.vit.vit_config import MatViTConfig

DIGITS = "digits"
HELD_OUT = 0.2
UNREADABLE = (
    *(OSError, EOFError, KeyError, ValueError, struct.error, zipfile.BadZipFile, zlib.error),
    TypeError,  # of a .npy
    RuntimeError,  # of an archive that is encrypted, or packed as zipfile does not know
)
"""What reading an .npz raises for one that is damaged, or none."""
TEST = "test.npz"
"""Where a folder has it, this is what is held out."""


@dataclass(frozen=True)
class Images:
    pixels: Tensor
    """[N, C, H, W], float32 in [0, 1]."""
    labels: Tensor
    """[N], int64."""

    def __len__(self) -> int:
        return len(self.labels)

    def at(self, places: Tensor) -> Images:
        """places: [M], or a mask of [N]."""
        return Images(self.pixels[places], self.labels[places])

    def to(self, device: str) -> Images:
        """From memory that is pinned a copy goes on beside what a GPU does."""
        return Images(*(each.to(device, non_blocking=True) for each in (self.pixels, self.labels)))

    def pinned(self) -> Images:
        return Images(self.pixels.pin_memory(), self.labels.pin_memory())


@dataclass(frozen=True, kw_only=True)
class ImageData:
    train: Images
    held_out: Images

    @property
    def classes(self) -> int:
        return 1 + int(max(self.train.labels.max(), self.held_out.labels.max()))

    @property
    def digest(self) -> str:
        """SHA-256 of everything in it: a run goes on with the images that it began with."""
        digest = hashlib.sha256()
        for images in (self.train, self.held_out):
            digest.update(images.pixels.numpy().tobytes())
            digest.update(images.labels.numpy().tobytes())
        return digest.hexdigest()


def read_images(source: str) -> ImageData:
    """`digits`, or a folder of .npz files with `images` and `labels`. Raises LtsRayError for anything else."""
    if source == DIGITS:
        return _split(_digits())
    folder = Path(source)
    if not folder.is_dir():
        raise LtsRayError(f"images {source!r} are neither {DIGITS} nor a folder of .npz files")
    files = sorted(folder.glob("*.npz"))
    if not files:
        raise LtsRayError(f"folder {source} has no .npz files; each is to have the arrays images and labels")
    test = [path for path in files if path.name == TEST]
    rest = [path for path in files if path.name != TEST]
    if not test:
        return _split(_joined(rest))
    if not rest:
        raise LtsRayError(f"folder {source} has {TEST} alone: there is nothing to train on")
    data = ImageData(train=_joined(rest), held_out=_joined(test))
    _same_shape([data.train, data.held_out], [folder, test[0]])
    return data


def check_images(data: ImageData, config: MatViTConfig) -> None:
    """Raises LtsRayError where the model does not take the images, or does not know one of their classes."""
    given, expected = tuple(data.train.pixels.shape[1:]), (config.channels, *config.image_size)
    if given != expected:
        raise LtsRayError(
            f"the images are of (channels, height, width) {given}; the model takes {expected}: resize them first"
        )
    if data.classes > len(config.labels):
        raise LtsRayError(f"the images have {data.classes} classes, but the model knows {len(config.labels)}")


def normalize(pixels: Tensor, config: MatViTConfig) -> Tensor:
    """Pixels in [0, 1] to the model's input; [..., C, H, W] both."""
    mean, std = (  # a GPU's step does not wait for so few numbers
        torch.tensor(values, dtype=pixels.dtype).to(pixels.device, non_blocking=True)[:, None, None]
        for values in (config.pixel_mean, config.pixel_std)
    )
    return (pixels - mean) / std


def _digits() -> Images:
    """1,797 handwritten digits of 8 × 8 pixels, which come with scikit-learn."""
    try:
        datasets = importlib.import_module("sklearn.datasets")
    except ImportError:
        raise LtsRayError("the digits come with scikit-learn: pip install 'lts-ray[vision]'") from None
    digits = datasets.load_digits()
    pixels = torch.from_numpy(np.asarray(digits.images, dtype=np.float32) / 16)  # [N, 8, 8]
    return Images(pixels[:, None], torch.from_numpy(np.asarray(digits.target, dtype=np.int64)))


def _joined(files: list[Path]) -> Images:
    parts = [_read(path) for path in files]
    _same_shape(parts, files)
    return Images(torch.cat([part.pixels for part in parts]), torch.cat([part.labels for part in parts]))


def _same_shape(parts: list[Images], files: list[Path]) -> None:
    for part, path in zip(parts, files, strict=True):
        if part.pixels.shape[1:] != parts[0].pixels.shape[1:]:
            shapes = tuple(part.pixels.shape[1:]), tuple(parts[0].pixels.shape[1:])
            raise LtsRayError(f"images of {path} are of (channels, height, width) {shapes[0]}, others of {shapes[1]}")


def _read(path: Path) -> Images:
    """images: [N, H, W] or [N, H, W, C], whole numbers up to 255 or fractions up to 1; labels: [N]."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            missing = [name for name in ("images", "labels") if name not in arrays]
            if missing:
                raise LtsRayError(f"{path} has no array {missing[0]!r}; it has {', '.join(arrays) or 'none'}")
            images, labels = arrays["images"], arrays["labels"]
    except UNREADABLE as error:
        raise LtsRayError(f"{path} cannot be read as .npz: {error}") from None
    if images.ndim not in (3, 4) or len(images) == 0:
        raise LtsRayError(f"images of {path} must be [N, H, W] or [N, H, W, C]; got {list(images.shape)}")
    if labels.shape != (len(images),) or labels.dtype.kind not in "iu" or labels.min() < 0:
        raise LtsRayError(
            f"labels of {path} must be {len(images)} whole numbers from 0 on, one for each image; "
            f"got {labels.dtype} {list(labels.shape)}"
        )
    pixels = torch.from_numpy(_fractions(images, path))
    pixels = pixels[:, None] if pixels.dim() == 3 else pixels.permute(0, 3, 1, 2).contiguous()
    return Images(pixels, torch.from_numpy(labels.astype(np.int64)))


def _fractions(images: NDArray[np.generic], path: Path) -> NDArray[np.float32]:
    if images.dtype == np.uint8:
        return images.astype(np.float32) / np.float32(255)
    if images.dtype.kind != "f" or not (images.min() >= 0 and images.max() <= 1):
        raise LtsRayError(f"images of {path} must be uint8, or fractions from 0 to 1; got {images.dtype}")
    return images.astype(np.float32)


def _split(images: Images) -> ImageData:
    hashes = [hashlib.sha256(pixels.numpy().tobytes()).digest()[:8] for pixels in images.pixels]
    held_out = torch.tensor([int.from_bytes(digest, "big") < HELD_OUT * 2**64 for digest in hashes])
    if bool(held_out.all()) or not bool(held_out.any()):
        raise LtsRayError(f"{len(images)} images are too few to hold out {HELD_OUT:.0%} of them: give more")
    return ImageData(train=images.at(~held_out), held_out=images.at(held_out))
