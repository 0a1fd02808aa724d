"""The generators of the small data sets that come with mtad."""
