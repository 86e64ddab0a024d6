"""The training copy: the model in operators that have a gradient."""
