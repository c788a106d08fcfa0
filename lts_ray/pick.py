"""How a token is to be chosen from logits where they are, and what was chosen."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Pick:
    """All that choosing one token takes, drawn beforehand: the logits never have to leave the device. See Sampling.

    Not to be changed, nor is a ChosenToken; frozen they would take several times as long to make.
    """

    temperature: float = 0.0
    """0 is greedy."""
    top_k: int = 0
    """0 is off."""
    top_p: float = 1.0
    min_p: float = 0.0
    draw: float = 0.0
    """From 0 to 1, below 1: where in the mass of what may be drawn the token lies. Read above temperature 0."""
    logprobs: int | None = None
    """None: no log probabilities are asked for; 0: the chosen token's alone; else the most likely tokens' too."""


GREEDY_PICK = Pick()


@dataclass(slots=True)
class ChosenToken:
    token: int
    """-1 where the logits are no numbers."""
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    """The most likely tokens with their log probabilities, most likely first, as many as were asked for."""
