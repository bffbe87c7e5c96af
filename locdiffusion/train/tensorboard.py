"""Figures of a run over its steps, as TensorBoard shows them: `tensorboard --logdir RUN`."""

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
        writer: Of TensorBoard.
        every: Steps between those of training.
    """

    def __init__(self, writer: SummaryWriter, every: int) -> None:
        self._writer, self._every = writer, every

    @classmethod
    def open(cls, directory: Path, every: int, step: int) -> Scalars | None:
        """Begins or goes on below a run's directory.

        Args:
            directory: Of the run.
            every: Steps between scalars of training.
            step: Of a resumed run; what was written after it will come again and is hidden.

        Returns:
            None without the package; see `MISSING`.
        """
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return None
        return cls(SummaryWriter(str(directory / FOLDER), purge_step=step + 1), every)

    def step(self, step: int, values: Mapping[str, float]) -> None:
        """Figures after a step of training; most steps are left out."""
        if step % self._every == 0:
            self._write("train", step, values)

    def validation(self, step: int, figures: Mapping[str, float]) -> None:
        """Figures of a validation, as `Trainer.validate` names them."""
        values = {k.removeprefix("val_"): v for k, v in figures.items() if k.startswith("val_")}
        self._write("val", step, values)
        self._writer.flush()

    def _write(self, group: str, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(f"{group}/{name}", value, step)

    def close(self) -> None:
        """Writes what is left."""
        self._writer.close()
