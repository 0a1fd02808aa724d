"""Measuring: a recipe becomes samples.jsonl, then scores.jsonl, then a report.

Each of the three steps is a program of its own and reads the files of the one before.
"""
