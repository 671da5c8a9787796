"""Training a network from scratch: the loop, its settings, strategies for the batches and the loss."""
