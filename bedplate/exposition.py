"""The Prometheus text format, 0.0.4: what a scraper reads."""

from __future__ import annotations

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
