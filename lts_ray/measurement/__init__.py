"""Latency and memory on the real hardware."""
