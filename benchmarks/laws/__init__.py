"""How losses fall with size: points out of finished trainings, laws fitted to them, and the figure of both."""
