"""Estimates of a candidate's quality without training it to the end."""
