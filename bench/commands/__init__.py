"""One file a command, named as the user types it."""
