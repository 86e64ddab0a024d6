"""From float32 to half precision, for TensorRT."""
