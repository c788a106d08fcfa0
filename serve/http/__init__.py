"""The wire: OpenAI-compatible routes over an engine, and the playground."""
