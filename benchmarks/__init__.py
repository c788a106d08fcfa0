"""What the package claims of itself, measured: each file runs one claim and returns its result as data."""
