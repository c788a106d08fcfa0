"""The architectures that are searched before training: BERT, GPT-2, OPT, T5, Transformer-XL."""
