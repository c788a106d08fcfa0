"""Runs the steps of continuous batching: rows of many sequences, at widths of their own, over one paged KV cache."""
