"""Plans for a budget of compute: published optima, counts of parameters and FLOPs, and the law that own runs gave."""
