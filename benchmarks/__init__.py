"""What merging costs, measured: checkpoints of known shapes, our commands and mergekit's in turn."""
