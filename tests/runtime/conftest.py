"""Makes Triton's interpreter fast enough for tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from triton import knobs, language


@pytest.fixture(scope="session", autouse=True)
def patched_once() -> Iterator[None]:
    """The interpreter patches Triton's language again at every call of a function: most of the time of such tests."""
    if not knobs.runtime.interpret:
        yield
        return
    from triton.runtime import interpreter

    patch: Callable[[Any], Any] = interpreter._patch_lang
    patched: set[str] = set()

    def patch_once(function: Any) -> Any:
        names = {each.__name__ for each in function.__globals__.values() if each in (language, language.core)}
        if names <= patched:
            return None
        scope = patch(function)
        patched.update(names)
        restore = scope.restore

        def restored() -> None:
            patched.difference_update(names)
            restore()

        scope.restore = restored
        return scope

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(interpreter, "_patch_lang", patch_once)
        yield
