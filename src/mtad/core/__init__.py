"""Values that every package speaks in: token tree, committed text, random numbers, buckets."""
