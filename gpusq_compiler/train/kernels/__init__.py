"""How graphs of training run fast on the CPU."""
