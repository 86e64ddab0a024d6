"""What TensorRT accepts: rules as data, their checks, and making a model acceptable."""
