"""The 26 English tasks of MatFormer (appendix A.2, tables 8 to 15), and which of lm_eval's, or of ours, they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["GEN", "RANK"]
"""GEN asks for a few tokens, RANK for one of the options that are given."""


@dataclass(frozen=True)
class PaperTask:
    name: str
    """The paper's."""
    kind: Kind
    task: str | None
    """Its name in lm_eval; None: there is none."""
    metric: str
    """The one of the task's that is averaged."""


PAPER_TASKS = (
    PaperTask("TriviaQA", "GEN", "triviaqa", "exact_match"),
    PaperTask("NaturalQuestions", "GEN", "nq_open", "exact_match"),
    PaperTask("WebQuestions", "GEN", "webqs", "exact_match"),
    PaperTask("LAMBADA", "GEN", "lambada_openai", "acc"),
    PaperTask("SQuAD v2", "GEN", "squadv2", "exact"),
    PaperTask("HellaSwag", "RANK", "hellaswag", "acc_norm"),
    PaperTask("StoryCloze", "RANK", "storycloze_2016", "acc"),
    PaperTask("WSC", "RANK", "wsc", "acc"),
    PaperTask("WinoGrande", "RANK", "winogrande", "acc"),
    PaperTask("Winograd", "RANK", "wsc273", "acc"),
    PaperTask("RACE-H", "RANK", "race", "acc"),
    PaperTask("RACE-M", "RANK", None, "acc"),
    PaperTask("PIQA", "RANK", "piqa", "acc_norm"),
    PaperTask("ARC-C", "RANK", "arc_challenge", "acc_norm"),
    PaperTask("ARC-E", "RANK", "arc_easy", "acc_norm"),
    PaperTask("OpenBookQA", "RANK", "openbookqa", "acc_norm"),
    PaperTask("BoolQ", "RANK", "boolq", "acc"),
    PaperTask("COPA", "RANK", "copa", "acc"),
    PaperTask("RTE", "RANK", "sglue_rte", "acc"),
    PaperTask("WiC", "RANK", "wic", "acc"),
    PaperTask("MultiRC", "RANK", "matformer_multirc", "f1"),
    PaperTask("ReCoRD", "RANK", "record", "em"),
    PaperTask("CB", "RANK", "cb", "acc"),
    PaperTask("ANLI-R1", "RANK", "anli_r1", "acc"),
    PaperTask("ANLI-R2", "RANK", "anli_r2", "acc"),
    PaperTask("ANLI-R3", "RANK", "anli_r3", "acc"),
)
GROUPS = {"matformer_gen": "GEN", "matformer_rank": "RANK"}
"""The groups that ship, and which of the paper's they are."""

BY_TASK = {paper.task: paper for paper in PAPER_TASKS if paper.task is not None}
"""By lm_eval's name."""
