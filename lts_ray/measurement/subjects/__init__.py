"""What is measured: any candidate, ready to run."""
