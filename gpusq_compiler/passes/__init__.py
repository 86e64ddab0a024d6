"""Passes and what carries them: contract, facts, pipeline, registry."""
