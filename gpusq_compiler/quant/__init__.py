"""Quantization schemes, arithmetic, observers and placement."""
