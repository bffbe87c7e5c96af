"""How good answers are, how honest, and how sure we are of that.

`score` and `score_strata` score a method, `compare` holds two against each other on the same
photos; every number comes with a bootstrap interval. `tables` and `plots` show them.
"""
