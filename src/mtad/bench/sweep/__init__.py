"""`mtad bench frontier`: a lossy method's threshold is swept, and settings are taken from it.

recipe.py     the sweep as an ordinary recipe, which is run, scored and read like any other
choice.py     what each setting is worth, the Pareto set, and the rules of choice
plot.py       the metrics against the threshold
files.py      the table, the remarks and a configuration with its evidence per rule
"""
