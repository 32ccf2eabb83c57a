"""Families: an image and a severity to an image."""
