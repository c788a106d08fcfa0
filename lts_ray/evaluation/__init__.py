"""How good a submodel is."""
