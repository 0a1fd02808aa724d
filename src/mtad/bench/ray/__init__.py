"""A recipe on a Ray cluster: workers on many machines decode its rows."""
