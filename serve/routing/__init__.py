"""Which replica serves which request, over all kinds of node: one file a router, all behind one interface."""
