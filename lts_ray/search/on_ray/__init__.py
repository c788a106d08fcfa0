"""A search on a cluster, by Ray Tune."""
