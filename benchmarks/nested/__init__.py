"""What one nested training is compared by: scales, qualities, choices among mixes, and the figure."""
