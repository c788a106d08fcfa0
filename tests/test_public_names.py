"""The public interface is a tested list."""

from __future__ import annotations

import lts_ray


def test_every_public_name_can_be_imported() -> None:
    assert list(lts_ray._MODULES) == lts_ray.__all__
    for name in lts_ray.__all__:
        assert getattr(lts_ray, name).__name__ == name


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(lts_ray, "Nothing")
