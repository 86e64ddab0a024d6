"""Fine-tuning on ONNX graphs: jobs, losses, gradient graphs, the loop."""
