"""The table of scores: its columns, its reader, its scanner."""
