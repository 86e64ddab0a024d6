"""Running and comparing models with ONNX Runtime."""
