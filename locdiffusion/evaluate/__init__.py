"""How good answers are, how honest, and how sure we are of that.

`score` and `score_strata` score a method, with a bootstrap interval for every number. `tables` and
`plots` show the scores.
"""
