"""The probes of `benchmarks/oip_conformance.py`, which that command asks of a real Triton too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
TOO_MANY_ROWS = "a tensor of 8 MB in binary"  # a million, and Bedplate takes 100,000
OF_TIME = "a deadline that is too short ends the call in time"  # of 0.1 ms: it is met, refused, or over, by chance


def test_the_probes_are_answered_as_the_published_specification_says(tmp_path: Path) -> None:
    found = tmp_path / "found.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "oip_conformance.py"), "--json", str(found)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    asked = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert found.exists(), asked.stderr
    probes = json.loads(found.read_text())["found"]
    assert len(probes) == 88
    missed = {probe["probe"]: probe["Bedplate"]["seen"] for probe in probes if not probe["Bedplate"]["right"]}
    missed.pop(OF_TIME, None)
    assert missed == {TOO_MANY_ROWS: "400"}
