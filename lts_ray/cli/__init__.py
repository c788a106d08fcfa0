"""The verbs of `lts-ray`: each parses, calls and prints; what loads slowly is imported when it is used."""
