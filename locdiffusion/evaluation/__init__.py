"""How good answers are, how honest, and how sure we are of that.

`score` and `score_strata` score a method, `compare` holds two against each other on the same
photos; every number comes with a bootstrap interval. `tables` and `plots` show them.
"""

from locdiffusion.evaluation.bootstrap import Bootstrap, Estimate
from locdiffusion.evaluation.proximity import Stratum, nearest_training_km, score_strata
from locdiffusion.evaluation.record import Evaluation, SplitRecord
from locdiffusion.evaluation.reliability import Reliability, reliabilities
from locdiffusion.evaluation.scores import (
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
