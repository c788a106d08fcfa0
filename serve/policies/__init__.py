"""Which submodel runs for which request, step by step: one file a policy, all behind one interface."""
