"""A draft for any target: prompts, the target's own answers to them, a head trained on those."""
