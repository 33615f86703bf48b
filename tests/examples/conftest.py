"""The example's demo as modules, and a small copy of the example to run it on."""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from small_retail import DATA, EXAMPLE, small_rows

FEW = {"evaluate.REQUESTS": 40, "serving.REQUESTS": 20, "stream.CUTS": 6, "proof.ORDERS": 6, "proof.CANDIDATES": 60}
"""How much of each the demo does here."""


@pytest.fixture(scope="package")
def small_example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example's folder with one customer in 25."""
    folder = tmp_path_factory.mktemp("example")
    for file in EXAMPLE.iterdir():
        if file.suffix in (".py", ".toml"):
            shutil.copy(file, folder)
    (folder / "data").mkdir()
    small_rows().write_parquet(folder / DATA)
    return folder


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The modules of the demo, told to do little."""
    monkeypatch.syspath_prepend(str(EXAMPLE))
    names = ("demo", "evaluate", "proof", "serving", "stream")
    modules: dict[str, ModuleType] = {name: importlib.import_module(name) for name in names}
    for place, value in FEW.items():
        module, _, constant = place.partition(".")
        monkeypatch.setattr(modules[module], constant, value)
    return SimpleNamespace(**modules)
