"""From logits to log-probabilities: sampling settings, penalties, truncation; batched per row."""
