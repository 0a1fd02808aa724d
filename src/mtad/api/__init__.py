"""What Python users call: a pair of models, its completions, their options."""
