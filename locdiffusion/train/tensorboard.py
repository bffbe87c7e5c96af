"""Writes figures of a run for TensorBoard: `tensorboard --logdir RUN` shows them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FOLDER = "tensorboard"
MISSING = (
    "no TensorBoard scalars: the package tensorboard is not installed "
    "(pip install 'locdiffusion[train]')"
)


class Scalars:
    """Writes scalars `train/...` and `val/...`.

    Args:
        writer: Writer of TensorBoard.
        every: Steps between scalars of training.
    """

    def __init__(self, writer: SummaryWriter, every: int) -> None:
        self._writer, self._every = writer, every

    @classmethod
    def open(cls, directory: Path, every: int, step: int) -> Scalars | None:
        """Opens the scalars below a run's directory, new or resumed.

        Args:
            directory: Directory of the run.
            every: Steps between scalars of training.
            step: Step at which the run resumes; TensorBoard hides what was written after it.

        Returns:
            The writer; None if the package is not installed, see `MISSING`.
        """
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return None
        return cls(SummaryWriter(str(directory / FOLDER), purge_step=step + 1), every)

    def step(self, step: int, values: Mapping[str, float]) -> None:
        """Writes figures of a training step, if it is one of every so many."""
        if step % self._every == 0:
            self._write("train", step, values)

    def validation(self, step: int, figures: Mapping[str, float]) -> None:
        """Writes figures of a validation, named as `Trainer.validate` does."""
        values = {k.removeprefix("val_"): v for k, v in figures.items() if k.startswith("val_")}
        self._write("val", step, values)
        self._writer.flush()

    def _write(self, group: str, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(f"{group}/{name}", value, step)

    def close(self) -> None:
        """Writes the remaining scalars."""
        self._writer.close()
