"""Reading, writing, querying and editing ONNX models (onnx_ir)."""
