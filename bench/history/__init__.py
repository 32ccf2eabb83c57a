"""Runs over time: their scores, kept in one folder, and where they took a step."""
