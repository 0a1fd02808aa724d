"""Whether drafting pays on a pair, why not, and what to decode with."""
