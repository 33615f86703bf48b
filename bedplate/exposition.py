"""The Prometheus text format, 0.0.4: what a scraper reads."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Of an answer in this format."""

_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


def header(name: str, kind: str, text: str) -> list[str]:
    """The lines before the samples of a metric.

    Args:
        name: the metric's.
        kind: `counter`, `gauge` or `histogram`.
        text: what it is, one line.
    """
    return [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]


def sample(name: str, labels: Mapping[str, object], value: float | str) -> str:
    r"""One value of a metric.

    >>> sample("bedplate_requests_total", {"route": "rank", "status": 200}, 7)
    'bedplate_requests_total{route="rank",status="200"} 7'
    >>> print(sample("up", {"file": 'a"b\\c'}, 1))
    up{file="a\"b\\c"} 1
    >>> sample("up", {}, 1)
    'up 1'
    """
    shown = ",".join(f'{label}="{str(text).translate(_ESCAPES)}"' for label, text in labels.items())
    return f"{name}{{{shown}}} {value}" if shown else f"{name} {value}"


def family(name: str, kind: str, text: str, samples: Iterable[tuple[Mapping[str, object], float | str]]) -> list[str]:
    """A metric with its values, each with its labels; see `header`."""
    return [*header(name, kind, text), *(sample(name, labels, value) for labels, value in samples)]


def merged(texts: Iterable[str], *, counters_only: bool = False) -> str:
    r"""One text of several processes' texts: samples of a name and labels become one.

    Counters and histograms are added up. Of gauges, those whose name ends with `_up` become the smallest and those that
    end with `_seconds` the largest; others are added up.

    Args:
        texts: in this format, as `family` and `sample` write it.
        counters_only: leaves the gauges out, as of a process that has ended.

    >>> a, b = (family("n_total", "counter", "N.", [({"k": k}, 2), ({}, 1)]) for k in "xy")
    >>> print(merged(["\n".join(a), "\n".join(b)]), end="")
    # HELP n_total N.
    # TYPE n_total counter
    n_total{k="x"} 2
    n_total 2
    n_total{k="y"} 2
    """
    heads: dict[str, list[str]] = {}
    samples: dict[str, dict[str, float]] = {}
    kinds: dict[str, str] = {}
    for text in texts:
        name = ""
        for line in text.splitlines():
            if line.startswith("# "):
                _, word, name, *rest = line.split(" ", 3)
                if word == "TYPE":
                    kinds[name] = rest[0]
                if line not in heads.setdefault(name, []):
                    heads[name].append(line)
            elif line:
                key, _, value = line.rpartition(" ")
                found = samples.setdefault(name, {})
                found[key] = _joined(name, kinds[name], found.get(key), float(value))
    lines: list[str] = []
    for name, head in heads.items():
        if not (counters_only and kinds[name] == "gauge"):
            lines += [*head, *(f"{key} {_shown(value)}" for key, value in samples.get(name, {}).items())]
    return "".join(f"{line}\n" for line in lines)


def _joined(name: str, kind: str, before: float | None, value: float) -> float:
    if before is None:
        return value
    if kind == "gauge" and name.endswith("_up"):
        return min(before, value)
    if kind == "gauge" and name.endswith("_seconds"):
        return value if math.isnan(before) else before if math.isnan(value) else max(before, value)
    return before + value


def _shown(value: float) -> str:
    return str(int(value)) if value.is_integer() else repr(round(value, 9))
