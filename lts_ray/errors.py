"""The one error type of the package: one line for the user that says what is wrong and what to do."""

from __future__ import annotations


class LtsRayError(Exception):
    """Bad input or an unusable environment. The command line prints it as one line and exits with code 2."""


class StoppedError(LtsRayError):
    """Work stopped on its way and can be gone on with: what it has left stays."""
