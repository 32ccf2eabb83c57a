"""Two runs side by side: the verdict and its formats."""
