"""How far a build is, from what lies in its directory. Knows no Beam."""

from __future__ import annotations

from pipelines.build_shards.output import CANDIDATES, METADATA, BuildOutput
from pipelines.writing.progress import duration


class BuildWatch:
    """Looks at the directory now and then.

    Args:
        output: Of the build.
    """

    def __init__(self, output: BuildOutput) -> None:
        self.output = output
        self._planned: dict[str, int] = {}
        self._before: tuple[float, int] | None = None

    def line(self, seconds: float) -> str:
        """One line of progress, this many seconds after the start."""
        if not self._planned:
            self._planned = (self.output.manifest(METADATA) or {}).get("shards", {})
        if not self._planned:
            return f"{duration(seconds):>7}  reading metadata"
        fetched = self._photos(CANDIDATES)
        total = sum(self._planned.values())
        if fetched == total:
            done = set(self.output.manifest_names()) - {METADATA}
            return f"{duration(seconds):>7}  {len(done):,}/{len(self._planned):,} shards finished"
        line = f"{duration(seconds):>7}  {fetched:,}/{total:,} photos fetched"
        if self._before is None:
            self._before = seconds, fetched
        start, photos = self._before
        if fetched > photos and seconds > start:
            rate = (fetched - photos) / (seconds - start)
            left = duration((total - fetched) / rate)
            line += f", {rate:,.1f} photos/s, about {left} left"
        return line

    def _photos(self, folder: str) -> int:
        names = (name.removesuffix(".json") for name in self.output.names(folder, "*.json"))
        return sum(self._planned.get(name, 0) for name in names)
