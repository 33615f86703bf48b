"""`bedplate features serve` as a process: the ready line, tokens, views that are resident or not loaded, SIGTERM."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import shop

from bedplate.features.graph import FeatureGraph
from bedplate.online.base import open_store
from bedplate.online.load import bulk_load
from bedplate.online.refresh import refresh
from bedplate.testing.online_store import grouped

HERE = Path(__file__).parent
TOKEN = "a-token-of-the-web-team"


def test_it_serves_what_is_loaded_to_those_with_a_token(tmp_path: Path, features: FeatureGraph) -> None:
    (tmp_path / "bedplate.toml").write_text(
        '[online]\nurl = "lmdb:online"\ndeadline = "5s"\nresident = ["customers"]\n'
    )
    text = f"import sys\nsys.path.insert(0, {str(HERE)!r})\nfrom shop import customers, hour, pairs, products, ratio\n"
    (tmp_path / "features.py").write_text(text)
    view = features.views["customers"]
    with open_store("lmdb:online", tmp_path) as store:
        bulk_load(store, view, [grouped(view, shop.events())], shop.NOW)
        refresh(store, view, tmp_path / ".bedplate/resident")
        # What the store holds by now is not what is resident: the answer shows which was read.
        bulk_load(store, view, [grouped(view, shop.events()[:1])], shop.NOW)
    environment = os.environ | {"PYTHONPATH": str(HERE.parents[1]), "BEDPLATE_FEATURES_TOKEN": TOKEN}
    command = [sys.executable, "-m", "bedplate", "features", "serve", "--port", "0", "--json"]
    with subprocess.Popen(
        [*command, "--project", str(tmp_path)],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        assert (ready["ready"], ready["pid"]) == (True, process.pid)
        body = json.dumps({"features": ["customers.all"], "keys": {"customer": 3}}).encode()
        request = urllib.request.Request(f"{ready['url']}/v1/features", body)
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(request, timeout=30)
        request.add_header("Authorization", f"Bearer {TOKEN}")
        with urllib.request.urlopen(request, timeout=30) as answer:
            found = json.loads(answer.read())
        assert found["values"]["customers.all"] == [count(3)]
        metrics = urllib.request.Request(f"{ready['url']}/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
        with urllib.request.urlopen(metrics, timeout=30) as answer:
            assert b'bedplate_resident_age_seconds{view="customers"}' in answer.read()
        process.send_signal(signal.SIGTERM)
        out, errors = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, "")
    assert "not served: view 'products'" in errors
    assert "view 'customers'" not in errors
    assert TOKEN not in errors


def count(customer: int) -> int:
    """How many orders a customer had before the load."""
    frame = shop.events()
    return frame.filter((frame["customer_id"] == customer) & (frame["time"].dt.epoch("us") < shop.NOW)).height
