"""The page, the terminal's tables, figures."""
