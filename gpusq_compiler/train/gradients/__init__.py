"""From the training copy to a graph of forward and backward."""
