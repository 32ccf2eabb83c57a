"""Pictures made after the run: the witnesses of a run, and `show`."""
