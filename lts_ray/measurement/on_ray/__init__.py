"""Measuring on the nodes of a cluster: actors pinned to targets, and who does what next."""
