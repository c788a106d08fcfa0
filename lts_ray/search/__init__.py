"""Which candidates to try next, and what was found."""
