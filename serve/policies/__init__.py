"""Which submodel runs for whom, step by step: one file a policy, all behind one interface."""
