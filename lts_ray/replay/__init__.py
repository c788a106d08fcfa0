"""Searches run against a table of measurements that others took."""
