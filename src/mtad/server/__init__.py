"""The OpenAI-compatible server: one thread owns the models, the rest is HTTP around it."""
