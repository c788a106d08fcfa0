"""The scheduler and the policies against a virtual clock."""
