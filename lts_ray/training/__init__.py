"""From text to a trained universal model."""
