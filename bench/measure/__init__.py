"""One shard: views, maps, nulls, scores."""
