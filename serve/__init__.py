"""The elastic endpoint: an OpenAI-compatible server that runs the submodel that meets each request's budget."""
