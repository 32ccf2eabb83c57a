"""What every room may use: errors, names, files, safe YAML and CSV, plug-ins, randomness."""
