"""What may be searched: candidates with sampling, mutation, crossover and size."""
