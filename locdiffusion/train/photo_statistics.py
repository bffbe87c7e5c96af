"""Measures statistics of all training photos in one pass over the embedding cache.

Training needs the positions for the base measure, and mean and spread of the embeddings. They are
stored beside the files on which they were measured.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from locdiffusion.cli.terminal import progress_bar
from locdiffusion.files import atomic_path
from locdiffusion.photos.embedding_cache import embedding_rows


@dataclass(frozen=True)
class Statistics:
    """Statistics of N photos in S files.

    Attributes:
        counts: Number of photos in each file, ``(S,)``.
        latitude, longitude: Positions in degrees in the order of the files, ``(N,)``.
        mean, spread: Mean and standard deviation of each embedding component, ``(E,)`` float32.
        spread_of_all: Standard deviation of all components together.
        fingerprint: SHA-256 of the content of the files.
    """

    counts: NDArray[np.int64]
    latitude: NDArray[np.float64]
    longitude: NDArray[np.float64]
    mean: NDArray[np.float32]
    spread: NDArray[np.float32]
    spread_of_all: float
    fingerprint: str

    @classmethod
    def of(cls, files: Sequence[Path]) -> Statistics:
        """Measures files of the embedding cache, or reads what an earlier call stored.

        Args:
            files: Files that `locdiffusion.photos.embedding_cache.embed_shards` returned.
        """
        names = "\n".join(file.name for file in files)
        digest = hashlib.sha256(names.encode()).hexdigest()[:12]
        kept = files[0].parent / f"statistics-{digest}.npz"
        try:
            with zipfile.ZipFile(kept) as archive:
                if any(info.compress_type for info in archive.infolist()):
                    raise ValueError("compressed, which np.savez is not")
            with np.load(kept, allow_pickle=False) as stored:
                values = {field.name: stored[field.name] for field in fields(cls)}
            scalars = {name: values[name].item() for name in ("spread_of_all", "fingerprint")}
            return cls(**{**values, **scalars})
        except (
            Exception
        ):  # missing or damaged: NumPy parses headers as Python does, and as it fails
            measured = _measure(files)
        with atomic_path(kept) as temporary, temporary.open("wb") as stream:
            np.savez(stream, **{f.name: getattr(measured, f.name) for f in fields(cls)})
        return measured


def _measure(files: Sequence[Path]) -> Statistics:
    counts: list[int] = []
    latitude, longitude, marks = [], [], []
    mean = deviation = np.zeros(0)  # mean so far, and sum of squares around it
    for file in progress_bar(files, desc="measuring the training photos", unit="shard"):
        table = pq.read_table(file)
        stored = embedding_rows(table)
        counts.append(len(table))
        latitude.append(table["latitude"].to_numpy())
        longitude.append(table["longitude"].to_numpy())
        marks.append(_fingerprint(table["key"].to_pylist(), latitude[-1], longitude[-1], stored))
        rows = stored.astype(np.float64)
        here = rows.mean(0)
        here_deviation = ((rows - here) ** 2).sum(0)
        if len(counts) == 1:
            mean, deviation = here, here_deviation
            continue
        # S = S_A + S_B + (m_B - m_A)² n_A n_B / n (Chan, Golub and LeVeque 1983, eq. 2.1)
        total = sum(counts)
        shift = here - mean
        deviation = deviation + here_deviation + shift**2 * (total - len(rows)) * len(rows) / total
        mean = mean + shift * len(rows) / total
    total = sum(counts)
    around_all = deviation.sum() + total * ((mean - mean.mean()) ** 2).sum()
    return Statistics(
        counts=np.array(counts),
        latitude=np.concatenate(latitude),
        longitude=np.concatenate(longitude),
        mean=mean.astype(np.float32),
        spread=np.sqrt(deviation / max(1, total - 1)).astype(np.float32),
        spread_of_all=float(np.sqrt(around_all / max(1, total * len(mean) - 1))),
        fingerprint=hashlib.sha256("\n".join(marks).encode()).hexdigest(),
    )


def _fingerprint(keys: Sequence[str], *arrays: NDArray[np.floating]) -> str:
    digest = hashlib.sha256("\n".join(keys).encode())
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
