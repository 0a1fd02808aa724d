"""Calls of tools and thinking in what a model writes: one family per form of chat template."""
