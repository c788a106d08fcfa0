"""What the endpoint counts, and where that is read."""
