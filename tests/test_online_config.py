"""How servers read the online store: `online.deadline`, `online.cache` and `online.resident` of bedplate.toml."""

from __future__ import annotations

from pathlib import Path

import pytest

from bedplate.config import load_config
from bedplate.errors import ConfigError


def test_how_long_a_read_may_take_and_what_is_kept_for_a_bad_day(tmp_path: Path) -> None:
    (tmp_path / "bedplate.toml").write_text("")
    config = load_config(tmp_path)
    assert (config.online_deadline, config.online_cache) == (50_000, 64_000_000)
    assert config.online_ahead == 600_000_000
    (tmp_path / "bedplate.toml").write_text('[online]\ndeadline = "2s"\ncache = "1.5GB"\nahead = "1h"\n')
    config = load_config(tmp_path)
    assert (config.online_deadline, config.online_cache) == (2_000_000, 1_500_000_000)
    assert config.online_ahead == 3_600_000_000
    assert (config.resident, config.resident_age) == ((), 300_000_000)
    assert config.resident_path == tmp_path / ".bedplate/resident"
    (tmp_path / "bedplate.toml").write_text(
        '[online]\nresident = ["items", "shops"]\nresident_age = "1h"\nresident_path = "/dev/shm/shop"\n'
    )
    config = load_config(tmp_path)
    assert (config.resident, config.resident_age) == (("items", "shops"), 3_600_000_000)
    assert config.resident_path == Path("/dev/shm/shop")
    for wrong in (
        'deadline = "50"',
        'deadline = "0ms"',
        'cache = "64"',
        "cache = 64",
        'ahead = "soon"',
        'resident = "a"',
        "resident = [1]",
        "resident_age = 5",
    ):
        (tmp_path / "bedplate.toml").write_text(f"[online]\n{wrong}\n")
        with pytest.raises(ConfigError, match=f"online.{wrong.partition(' ')[0]}"):
            load_config(tmp_path)
