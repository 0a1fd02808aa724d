"""Iterations written to a file, and judged again by other acceptance rules."""
