"""Loads: when requests come, how long they are, and what they ask of latency."""
