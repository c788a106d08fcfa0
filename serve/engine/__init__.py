"""Continuous batching over one model: tokens in, tokens out."""
