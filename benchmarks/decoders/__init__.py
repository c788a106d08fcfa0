"""Ways to decode that are compared: the runtime and the engine of this project, and other libraries."""
