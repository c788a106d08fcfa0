"""How many replicas each kind of node is to have: one file an autoscaler, all behind one interface."""
