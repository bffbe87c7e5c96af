"""Asks for known vulnerabilities of every package in constraints.txt, and fails where there is one.

    python tools/audit.py              # `make audit` runs it

pip-audit asks PyPI. A registry that only mirrors files knows nothing of vulnerabilities; then this
says so, and does not fail.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

ACCEPTED: Mapping[str, str] = {}
"""Vulnerabilities that do not concern us, by id, each with the reason."""

COMMAND = (
    *(sys.executable, "-m", "pip_audit", "--requirement", str(ROOT / "constraints.txt")),
    *("--disable-pip", "--no-deps", "--format", "json", "--progress-spinner", "off"),
)


def told(packages: Sequence[Mapping[str, Any]]) -> tuple[str, bool]:
    """Says what pip-audit found.

    Args:
        packages: The field `dependencies` of its JSON.

    Returns:
        Lines for the terminal, and whether a vulnerability was found that is not accepted.
    """
    asked = [package for package in packages if "vulns" in package]
    if not asked:
        return f"no registry here tells of vulnerabilities: {len(packages)} packages unasked", False
    lines, found = [], False
    for package in asked:
        for one in package["vulns"]:
            name = f"{package['name']} {package['version']}"
            fixed = ", ".join(one.get("fix_versions", ())) or "no release"
            reason = ACCEPTED.get(one["id"])
            lines.append(f"{name}: {one['id']}, {reason or f'mended in {fixed}'}")
            found |= reason is None
    lines.append(f"{len(asked)} of {len(packages)} packages asked about: {len(lines)} known")
    return "\n".join(lines), found


def main() -> int:
    """Runs pip-audit.

    Returns:
        Exit status: 0, or 1 where a vulnerability is known that is not accepted.
    """
    result = subprocess.run(COMMAND, capture_output=True, text=True, check=False)
    try:
        packages = json.loads(result.stdout)["dependencies"]
    except (ValueError, KeyError):
        print(f"pip-audit could not ask: {result.stderr.strip()[-300:]}", file=sys.stderr)
        return 0
    text, found = told(packages)
    print(text)
    return int(found)


if __name__ == "__main__":
    sys.exit(main())
