"""Text: where it comes from, as tokens, in batches."""
