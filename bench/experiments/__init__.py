"""Experiments that come with the package, one YAML file each: copy one and change it."""
