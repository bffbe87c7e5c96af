"""Pictures that cost a careless decoder gigabytes or hours cost little here, and end as one row."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from support.hostile.pictures import PICTURES
from support.project import ROOT

MAX_MIB = 1300
"""Most memory of a photo, above that of the process at rest."""

MAX_CPU_SECONDS = 30

DECODED = "decoded"
OUTCOMES = {
    DECODED: """
        png_text_exif png_exif png_profile png_texts png_xmp_elements jpeg_joined_exif
        jpeg_tiny_exif jpeg_profile jpeg_run webp_exif webp_frames webp_chunks gif_frames tiff_tags
        tiff_packed_tags tiff_unknown_numbers tiff_chain j2k_large jp2_boxes avif_exif
        avif_exif_shared avif_sequence heic_exif heic_exif_shared
    """,
    "too_slow": """
        png_empty_parts jpeg_scans jpeg_small_scans jpeg_sequential_scans jpeg_arithmetic
        jpeg_gigapixels jpeg_segments_without_end jpeg_tables gif_parts gif_extensions bmp_runs
        bmp_steps tiff_numbers tiff_shared_strips tiff_tile j2k_blocks j2k_precincts j2k_layers
        j2k_tiles j2k_components jp2_components j2k_markers avif_grid avif_boxes heic_grid
        heic_overlay heic_boxes
    """,
    "too_large": "webp_large",
}
"""How each file ends, by its stem; of others that depends on the version of a library."""

_CHILD = """
import json, resource, sys, time
from pathlib import Path
from PIL import Image
from locdiffusion.model.preprocessing import EncoderSpec
from locdiffusion.photos.archive import Sample
from locdiffusion.photos.photo import decode_photo
from support.archives import photo
from support.picture_files import SAVES, heic, picture_file

encoder = EncoderSpec("x", 8, 224, (0.5,) * 3, (0.5,) * 3)

def status(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) >> 10 for line in lines if line.startswith(name))

for usual in [*map(picture_file, SAVES), heic() or photo(1)]:
    decode_photo(Sample("usual", usual), encoder.preprocess, thumbnail=True)
for name in Path(sys.argv[1]).iterdir():
    data = name.read_bytes()
    Path("/proc/self/clear_refs").write_text("5")
    before, start = status("VmRSS"), time.process_time()
    row = decode_photo(Sample(name.name, data), encoder.preprocess, thumbnail=True)
    cpu = time.process_time() - start
    end = getattr(row, "status", None)
    print(json.dumps({
        "name": name.name, "mib": status("VmHWM") - before, "cpu": cpu,
        "end": end.value if end else "decoded", "message": getattr(row, "message", ""),
    }), flush=True)
"""


class Cost(NamedTuple):
    """What a picture cost, and how it ended."""

    end: str
    mib: int
    cpu: float
    message: str


def costs(folder: Path, seconds: int) -> dict[str, Cost]:
    """Decodes the files of a folder in a child process, whose CPU time is limited."""
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_CPU, ({seconds},) * 2)\n"
    child = subprocess.run(
        [sys.executable, "-c", limit + _CHILD, str(folder)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests")))},
    )
    rows: list[dict[str, Any]] = [json.loads(line) for line in child.stdout.splitlines()]
    assert child.returncode == 0, (rows[-1:], child.stderr)
    return {row.pop("name"): Cost(**row) for row in rows}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Cost]:
    folder = tmp_path_factory.mktemp("pictures")
    for name, make in PICTURES.items():
        (folder / name).write_bytes(make())
    return costs(folder, seconds=300)


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of memory is read as on Linux")
class TestCosts:
    @pytest.mark.parametrize("name", PICTURES)
    def test_memory_and_work_are_bounded(self, found: dict[str, Cost], name: str) -> None:
        assert found[name].mib <= MAX_MIB and found[name].cpu <= MAX_CPU_SECONDS, found[name]

    @pytest.mark.parametrize("end", OUTCOMES)
    def test_ends_as_one_row_that_says_why(self, found: dict[str, Cost], end: str) -> None:
        stems = OUTCOMES[end].split()
        there = {name: cost for name, cost in found.items() if name.partition(".")[0] in stems}
        assert {name: cost for name, cost in there.items() if cost.end != end} == {}
        for cost in there.values():
            assert end == DECODED or ("; " in cost.message and len(cost.message) < 400)
