"""Continuous batching: the thread that owns the models. Never sees HTTP."""
