"""TensorRT: what it accepts, and making a model acceptable; nothing here imports it."""
