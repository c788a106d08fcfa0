"""A model out of its folder, whatever its blocks; and a submodel as a folder of its own."""
