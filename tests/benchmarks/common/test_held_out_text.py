from __future__ import annotations

import numpy as np

from benchmarks.common.held_out_text import held_out


def test_the_two_texts_are_of_different_documents() -> None:
    """Documents of 40, 30, 90 and 60 tokens: the cut closest to a quarter, 55, is after the first or the second."""
    documents = [[number] * (length - 1) + [0] for number, length in enumerate((40, 30, 90, 60), start=1)]
    text = held_out(np.concatenate(documents).astype(np.int32), eos_id=0, length=5)
    assert set(text.selection.flatten().tolist()) - {0} == {1}
    assert set(text.report.flatten().tolist()) - {0} == {2, 3, 4}
    assert len(text.selection) == 7
    assert len(text.report) == 35


def test_one_document_is_cut_in_the_middle_of_it() -> None:
    tokens = np.append(np.arange(1, 100), 0).astype(np.int32)
    text = held_out(tokens, eos_id=0, length=4)
    assert int(text.selection.max()) < int(text.report.min())
