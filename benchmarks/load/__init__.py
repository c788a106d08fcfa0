"""Load on an endpoint: made-up arrivals, clients that replay them, and what the answers are worth."""
