"""An existing checkpoint becomes a universal model: its FFN neurons in order of importance, then trained to nest."""
