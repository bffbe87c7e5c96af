"""How good answers are, how honest, and how sure we are of that.

`score` and `score_strata` score a method, `compare` holds two against each other on the same
photos; every number comes with a bootstrap interval. `tables` and `plots` show them.
"""

from locdiffusion.evaluate.bootstrap import Bootstrap, Estimate
from locdiffusion.evaluate.proximity import Stratum, nearest_training_km, score_strata
from locdiffusion.evaluate.record import Evaluation, SplitRecord
from locdiffusion.evaluate.reliability import Reliability, reliabilities
from locdiffusion.evaluate.scores import (
    Comparison,
    Scores,
    Verdict,
    compare,
    errors_km,
    score,
    verdict,
)

__all__ = [
    "Bootstrap",
    "Comparison",
    "Estimate",
    "Evaluation",
    "Reliability",
    "Scores",
    "SplitRecord",
    "Stratum",
    "Verdict",
    "compare",
    "errors_km",
    "nearest_training_km",
    "reliabilities",
    "score",
    "score_strata",
    "verdict",
]
