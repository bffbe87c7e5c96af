"""Writes model cards: the purpose in the words of a person, the numbers of the training run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from locdiffusion.checkpoint import CheckpointConfig, resolve
from locdiffusion.model.model_files import local_checkpoint

CARD = "MODEL_CARD.md"


def render(config: CheckpointConfig, about: str) -> str:
    """Renders a model card as Markdown.

    Args:
        config: Configuration of the checkpoint, with its record.
        about: Markdown that a person wrote: purpose, data, limits.
    """
    record = config.record
    decode, recipe = config.decode, record.get("recipe", {})
    activation = config.encoder.activation
    lines = [
        about.rstrip(),
        "",
        "## Numbers (written by the training run)",
        "",
        *_metrics_table(record.get("metrics", {})),
        "",
        f"Decoded with ρ = {decode.radius_km:g} km; it and the temperatures were fitted on every "
        "`val` split.",
        "`nats` is the mean -log density of the truth against the uniform sphere (lower: better).",
        "",
        "## Recipe",
        "",
        *(f"- {name}: {_photos(part)}" for name, part in record.get("data", {}).items()),
        f"- encoder: `{config.encoder.name}`, {config.encoder.embedding_dim} numbers per photo"
        + (f", activation {activation.value}" if activation else ""),
        *_map_lines(record.get("appearance")),
        f"- L = {config.model.max_degree}, {record.get('parameters', 0):,} parameters",
        f"- {recipe.get('steps')} steps of {recipe.get('batch_size')} photos, peak learning rate "
        f"{recipe.get('learning_rate'):g}, seed {recipe.get('seed')}",
        f"- {record.get('environment', 'environment not recorded')}",
        "",
        "Everything else is in `config.json`, the validation history of the run included.",
    ]
    return "\n".join(lines) + "\n"


def _metrics_table(metrics: Mapping[str, Mapping[str, Any]]) -> list[str]:
    lines = [
        "| split | photos | median km | within 1 / 25 / 200 / 750 / 2500 km, % | truth within "
        "`radius_50_km` / `radius_90_km`, % | nats |",
        "|--|--|--|--|--|--|",
    ]
    for name, m in sorted(metrics.items()):  # as config.json sorts them
        # config.json sorts its keys as text: 1, 200, 25
        shares = sorted(m["within"].items(), key=lambda item: float(item[0]))
        within = " / ".join(f"{100 * share:.1f}" for _, share in shares)
        lines.append(
            f"| `{name}` | {m['n']:,} | {m['median_km']:.0f} | {within} | "
            f"{100 * m['coverage_50']:.1f} / {100 * m['coverage_90']:.1f} | {m['nats']:.2f} |"
        )
    return lines


def _map_lines(record: Mapping[str, Any] | None) -> list[str]:
    if record is None:
        return []
    varied = record["augmented_photos"]
    return [
        f"- appearance map: {record['cells']:,} cells of {record['settings']['cell_km']:g} km from "
        f"{record['photos']:,} photos" + (f", {varied:,} in varied colours" if varied else "")
    ]


def _photos(part: Mapping[str, Any]) -> str:
    made = "; ".join(
        f"split {s['split']}, seed {s['seed']}" for s in part.get("source", []) if "split" in s
    )
    return (
        f"{part['photos']:,} photos{f' ({made})' if made else ''}, SHA-256 {part['sha256'][:16]}…"
    )


def purpose(checkpoint: str | None) -> str:
    """Reads the purpose of a checkpoint from its card; empty if it has no card.

    Args:
        checkpoint: A directory or URL, the name of a shipped checkpoint, or None for the default.
    """
    card = resolve(local_checkpoint(checkpoint)) / CARD
    text = card.read_text("utf-8") if card.is_file() else ""
    found = re.search(r"\*\*What it is for\.\*\*(.+?)(?:\n\s*\n|\Z)", text, re.DOTALL)
    return " ".join(re.sub(r"[*`]", "", found[1]).split()) if found else ""
