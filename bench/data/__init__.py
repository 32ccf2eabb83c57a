"""From a data spec to pixels."""
