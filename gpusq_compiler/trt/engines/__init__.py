"""Engines: building them, here or elsewhere, running them, and what they are made of."""
