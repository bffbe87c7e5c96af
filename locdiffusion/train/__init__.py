"""Training: photos in batches, the loop over noise levels, the run that ends in a checkpoint."""
