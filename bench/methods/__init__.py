"""Methods: a classifier and images to attributions."""
