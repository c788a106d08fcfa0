"""What is built: the universal model, its parts, and its files."""
