"""The checkpoints of each family as transformers writes them, translated to our names and back."""
