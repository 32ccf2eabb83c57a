"""Passes through a classifier, its graph, its guard, memory."""
