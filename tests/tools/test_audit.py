"""The audit fails for a known vulnerability, and says when nobody could be asked."""

from __future__ import annotations

import subprocess
from types import SimpleNamespace

import pytest

import audit

SOUND = {"name": "numpy", "version": "2.0", "vulns": []}
WEAK = {"name": "pillow", "version": "10.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["10.3"]}]}
UNASKED = {"name": "torch", "skip_reason": "Dependency not found on PyPI"}


def test_a_vulnerability_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    text, found = audit.told([SOUND, WEAK, UNASKED])
    assert found
    assert text.splitlines() == [
        "pillow 10.0: PYSEC-1, mended in 10.3",
        "2 of 3 packages asked about: 1 known",
    ]
    monkeypatch.setattr(audit, "ACCEPTED", {"PYSEC-1": "we write no FLI files"})
    text, found = audit.told([SOUND, WEAK])
    assert not found
    assert "PYSEC-1, we write no FLI files" in text


def test_sound_packages_pass() -> None:
    assert audit.told([SOUND]) == ("1 of 1 packages asked about: 0 known", False)


def test_says_when_nobody_could_be_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit.told([UNASKED]) == (
        "no registry here tells of vulnerabilities: 1 packages unasked",
        False,
    )
    answer = SimpleNamespace(stdout="", stderr="ConnectionError: no route")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: answer)
    assert audit.main() == 0
    assert "ConnectionError" in capsys.readouterr().err
