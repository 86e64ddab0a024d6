"""One pass and one loss for gpusq-compiler."""
