"""Tables of blocks as the device reads them: a sequence's is the same one for many steps, and converted once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from lts_ray.errors import LtsRayError

SPARE = 64
"""Tables that are kept beside twice as many as the last step had."""


class BlockTables:
    def __init__(self, n_blocks: int) -> None:
        self._n_blocks = n_blocks
        # By identity, which takes no time; tables that are kept here keep theirs. Of tuples alone: they never change.
        self._known: dict[int, tuple[Sequence[int], bytes]] = {}

    def joined(self, tables: Sequence[Sequence[int]]) -> npt.NDArray[np.int32]:
        """One behind the other. Raises LtsRayError for a block that there is not."""
        known = self._known
        converted = [
            entry[1] if (entry := known.get(id(table))) is not None else self._converted(table) for table in tables
        ]
        if len(known) > 2 * len(tables) + SPARE:
            self._known = {id(table): known[id(table)] for table in tables if id(table) in known}
        return np.frombuffer(b"".join(converted), dtype=np.int32)

    def _converted(self, table: Sequence[int]) -> bytes:
        if min(table) < 0 or max(table) >= self._n_blocks:
            raise LtsRayError(f"a block is not one of the cache's {self._n_blocks}")
        converted = np.array(table, dtype=np.int32).tobytes()
        if isinstance(table, tuple):
            self._known[id(table)] = table, converted
        return converted
