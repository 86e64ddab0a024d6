"""TensorRT: what it accepts, making a model acceptable, and building engines with it."""
