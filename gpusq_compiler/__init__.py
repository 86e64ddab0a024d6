"""gpusq-compiler: from any ONNX file to a proven 2:4 sparse INT8 one."""
