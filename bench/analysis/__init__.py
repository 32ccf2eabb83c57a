"""From records to means, calibrated scores, ranks, blame and curves."""
