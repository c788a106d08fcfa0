"""Replicas on many kinds of node behind one set of routes: what passes between them, and how nothing is lost."""
