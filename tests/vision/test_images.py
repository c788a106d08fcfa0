"""Images are read, split the same way whatever is around them, and batched as a function of the step."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lts_ray.errors import LtsRayError
from lts_ray.vision.image_batches import ImageBatches, shifted
from lts_ray.vision.images import Images, check_images, normalize, read_images
from tests.vision.make import CONFIG, make_data, make_images, write_npz


def rows(images: Images) -> set[bytes]:
    return {each.numpy().tobytes() for each in images.pixels}


def test_the_digits_are_split_once_and_for_all() -> None:
    data = read_images("digits")
    assert (len(data.train), len(data.held_out)) == (1463, 334)
    assert data.classes == 10
    assert data.train.pixels.shape[1:] == (1, 8, 8)
    assert float(data.train.pixels.max()) == 1.0
    assert min(Counter(data.held_out.labels.tolist()).values()) > 20
    assert data.digest == read_images("digits").digest


def test_an_image_stays_on_its_side_when_others_come(tmp_path: Path) -> None:
    write_npz(tmp_path / "a.npz")
    before = read_images(str(tmp_path))
    write_npz(tmp_path / "b.npz", 60, seed=1)
    after = read_images(str(tmp_path))
    assert len(after.train) + len(after.held_out) == 100
    assert rows(before.train) <= rows(after.train)
    assert rows(before.held_out) <= rows(after.held_out)
    assert not rows(after.train) & rows(after.held_out)
    assert before.digest != after.digest


def test_a_folders_own_test_images_are_what_is_held_out(tmp_path: Path) -> None:
    write_npz(tmp_path / "train.npz", 10)
    write_npz(tmp_path / "test.npz", 7, seed=1)
    data = read_images(str(tmp_path))
    assert (len(data.train), len(data.held_out)) == (10, 7)
    (tmp_path / "train.npz").unlink()
    with pytest.raises(LtsRayError, match="nothing to train on"):
        read_images(str(tmp_path))


def test_channels_come_first_and_whole_numbers_are_of_255(tmp_path: Path) -> None:
    images = np.zeros((2, 4, 5, 3), dtype=np.uint8)
    images[0, 1, 2, 0] = 255
    np.savez(tmp_path / "a.npz", images=images, labels=np.array([0, 1]))
    np.savez(tmp_path / "test.npz", images=images / 255, labels=np.array([0, 1]))
    data = read_images(str(tmp_path))
    assert data.train.pixels.shape == (2, 3, 4, 5)
    assert float(data.train.pixels[0, 0, 1, 2]) == 1.0
    assert float(data.train.pixels.sum()) == 1.0
    torch.testing.assert_close(data.held_out.pixels, data.train.pixels)


@pytest.mark.parametrize(
    ("arrays", "problem"),
    [
        ({"images": np.zeros((2, 4, 4))}, "has no array 'labels'; it has images"),
        ({"images": np.zeros((2, 4)), "labels": np.zeros(2, int)}, r"must be \[N, H, W\]"),
        ({"images": np.zeros((2, 4, 4)), "labels": np.zeros(3, int)}, "must be 2 whole numbers"),
        ({"images": np.zeros((2, 4, 4)), "labels": np.array([0, -1])}, "must be 2 whole numbers"),
        ({"images": np.full((2, 4, 4), 2.0), "labels": np.zeros(2, int)}, "fractions from 0 to 1"),
        ({"images": np.full((2, 4, 4), np.nan), "labels": np.zeros(2, int)}, "fractions from 0 to 1"),
        ({"images": np.zeros((2, 4, 4), int), "labels": np.zeros(2, int)}, "uint8"),
        ({"images": np.array([None, {}]), "labels": np.zeros(2, int)}, "cannot be read"),
        ({"images": np.zeros((1, 4, 4)), "labels": np.zeros(1, int)}, "too few"),
    ],
)
def test_a_file_that_is_no_images_is_refused_in_one_line(
    arrays: dict[str, np.ndarray], problem: str, tmp_path: Path
) -> None:
    np.savez(tmp_path / "a.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(LtsRayError, match=problem) as error:
        read_images(str(tmp_path))
    assert "\n" not in str(error.value)


def test_a_folder_without_images_and_a_broken_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(LtsRayError, match="neither digits nor a folder"):
        read_images(str(tmp_path / "nowhere"))
    with pytest.raises(LtsRayError, match=r"has no \.npz files"):
        read_images(str(tmp_path))
    np.save(tmp_path / "a.npy", np.zeros((2, 4, 4)))
    for content in (b"PK nothing", b"", (tmp_path / "a.npy").read_bytes()):
        (tmp_path / "a.npz").write_bytes(content)
        with pytest.raises(LtsRayError, match="cannot be read as"):
            read_images(str(tmp_path))
    write_npz(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", images=np.zeros((2, 4, 4)), labels=np.zeros(2, int))
    with pytest.raises(LtsRayError, match="others of"):
        read_images(str(tmp_path))


def test_without_scikit_learn_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(LtsRayError, match=r"pip install 'lts-ray\[vision\]'"):
        read_images("digits")


def test_images_that_the_model_does_not_take_are_refused() -> None:
    check_images(make_data(), CONFIG)
    with pytest.raises(LtsRayError, match=r"\(3, 6, 4\); the model takes \(3, 6, 6\)"):
        check_images(make_data(), replace(CONFIG, image_size=(6, 6)))
    with pytest.raises(LtsRayError, match="3 classes, but the model knows 2"):
        check_images(make_data(), replace(CONFIG, labels=("a", "b")))


def test_pixels_become_input_channel_by_channel() -> None:
    config = replace(CONFIG, pixel_mean=(0.0, 0.5, 1.0), pixel_std=(1.0, 0.5, 2.0))
    found = normalize(torch.full((1, 3, 1, 1), 0.5), config)
    assert found.flatten().tolist() == [0.5, 0.0, -0.25]


def test_every_image_comes_once_before_any_comes_again() -> None:
    images = Images(torch.zeros(10, 1, 2, 2), torch.arange(10))
    batches = ImageBatches(images=images, batch_size=4, seed=3)
    drawn = torch.cat([batches.batch(step).labels for step in range(5)])
    assert sorted(drawn[:10].tolist()) == sorted(drawn[10:].tolist()) == list(range(10))
    assert drawn[:10].tolist() != drawn[10:].tolist()


def test_a_batch_is_a_function_of_the_step() -> None:
    batches = ImageBatches(images=make_images(20), batch_size=6, seed=3, shift_pixels=1)
    again = ImageBatches(images=make_images(20), batch_size=6, seed=3, shift_pixels=1)
    expected = [batches.batch(step) for step in range(6)]
    for step in (5, 2):
        assert torch.equal(again.batch(step).pixels, expected[step].pixels)
        assert torch.equal(again.batch(step).labels, expected[step].labels)
    other = ImageBatches(images=make_images(20), batch_size=6, seed=4, shift_pixels=1).batch(0)
    assert not torch.equal(other.pixels, expected[0].pixels)


def test_an_image_is_moved_down_and_right_by_its_offset() -> None:
    image = torch.arange(12.0).view(1, 1, 3, 4)
    moved = shifted(image.expand(3, 1, 3, 4), torch.tensor([[1, 1], [2, 1], [1, 0]]), 1)
    assert torch.equal(moved[0], image[0])
    assert moved[1, 0].tolist() == [[0, 1, 2, 3], [0, 1, 2, 3], [4, 5, 6, 7]]
    assert moved[2, 0].tolist() == [[1, 2, 3, 3], [5, 6, 7, 7], [9, 10, 11, 11]]


@pytest.mark.parametrize(
    ("place", "value"), [(4, b"\xf0\xf0"), (6, b"\x01\x00"), (8, b"\x63\x00")], ids=["version", "encrypted", "method"]
)
def test_an_archive_that_no_zipfile_reads_is_refused(place: int, value: bytes, tmp_path: Path) -> None:
    """Of a whole archive, one field of each entry's header, both where it begins and in the directory at the end."""
    write_npz(tmp_path / "a.npz")
    content = bytearray((tmp_path / "a.npz").read_bytes())
    for mark, further in ((b"PK\x03\x04", 0), (b"PK\x01\x02", 2)):
        start = content.find(mark)
        while start >= 0:
            content[start + place + further : start + place + further + 2] = value
            start = content.find(mark, start + 4)
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(LtsRayError, match=r"cannot be read as \.npz"):
        read_images(str(tmp_path))
