"""Vision transformers whose FFN blocks nest."""
