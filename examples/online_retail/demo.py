"""The main job, end to end: raw events to a served, proven model. `scripts/demo` runs it; it takes a few minutes.

python demo.py [--json FILE] [--work DIR]
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

# Read when torch is first imported: threads that wait must not spin.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

if __name__ == "__main__":
    # Ctrl-C during the imports, which take seconds, ends the process without a traceback; main takes it back.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import msgspec
import numpy as np
from evaluate import judge
from proof import prove_features
from report import print_report
from serving import check_metadata, latencies, prove_golden, service
from stream import replay
from winners import winners

from bedplate import BedplateError, Job, Project, Registry
from bedplate.batch import column_to_series
from bedplate.datasets.loaded import LoadedDataset
from bedplate.errors import StoreError
from bedplate.files import write_atomic
from bedplate.training.interrupt import TrainingInterruptedError
from bedplate.training.report import on_stderr
from bedplate.training.run import Trained, catalogue_candidates, train
from bedplate.types import format_time

_Result = TypeVar("_Result")

HERE = Path(__file__).resolve().parent


class Steps:
    """Tells what is being done, and keeps how long each step took."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.seconds: dict[str, float] = {}

    def show(self, text: str) -> None:
        sys.stderr.write(f"[{time.perf_counter() - self.began:6.1f} s]   {text}\n")
        sys.stderr.flush()

    def run(self, name: str, step: Callable[[], _Result]) -> _Result:
        sys.stderr.write(f"[{time.perf_counter() - self.began:6.1f} s] {name}\n")
        began = time.perf_counter()
        result = step()
        self.seconds[name] = round(time.perf_counter() - began, 2)
        return result


def prepare(work: Path, example: Path) -> Project:
    """A fresh copy of the project in the folder it works in; indexes built earlier are kept, as apply would."""
    for source in example.iterdir():
        if source.suffix in (".py", ".toml"):
            shutil.copy2(source, work / source.name)
    shutil.copytree(example / "data", work / "data", dirs_exist_ok=True)
    for name in ("online", "registry"):
        shutil.rmtree(work / ".bedplate" / name, ignore_errors=True)
    return Project(work)


def train_all(project: Project, dataset: LoadedDataset, steps: Steps, registry: Registry) -> dict[str, Trained]:
    """Every job of `train.py`, each registered and promoted."""
    trained: dict[str, Trained] = {}
    features = project.graph.features
    for name in ("retail_logistic", "retail_retrieval", "retail_ranker"):
        job = project.find(Job, name)
        trained[name] = steps.run(
            f"train {name}",
            lambda job=job: train(
                job, dataset, features, registry, project.root, show=on_stderr(), progress=steps.show
            ),
        )
        version = trained[name].version
        registry.promote(version.name, version.version, reason="the demo")
    return trained


def serve(project: Project, registry: Registry, end: int, steps: Steps) -> dict[str, Any]:
    """Starts the service, asks it everything that clients ask, and shows recommendations with names."""
    dataset = project.load("baskets")
    first, last = dataset.positions("test")
    texts = dataset.item_texts or {}
    customers = np.unique(dataset.spine.rows.request_keys["customer"][first:last])
    customers = [int(c) for c in np.random.default_rng(3).permutation(customers)[:50]]
    products = [texts[int(k)] for k in catalogue_candidates(dataset)[:400]]
    with service(project.root) as (client, seconds):
        steps.show(f"ready on {client.url} in {seconds:.1f} s")
        golden = sum(prove_golden(client, registry.get(f"{n}@champion")) for n in ("retail_retrieval", "retail_ranker"))
        steps.show(f"{golden} golden requests reproduced through the Open Inference Protocol, binary and JSON")
        metadata = check_metadata(client, registry.get("retail_ranker@champion"))
        result = {
            "golden": golden,
            "metadata": metadata,
            "ready_seconds": round(seconds, 2),
            "latency": latencies(client, customers, products, end + 1),
            "recommendations": [recommended(project, client, c, end + 1) for c in customers[:3]],
        }
        unknown = client.recommend(customer=1, time=end + 1)
        result["unknown_customer"] = {"items": len(unknown.ids), "flagged": unknown.unknown}
    return result


def recommended(project: Project, client: Any, customer: int, now: int) -> dict[str, Any]:
    """What a customer bought last and what the service recommends, with names."""
    answer = client.recommend(customer=customer, time=now, count=5)
    recent = project.lookup("customer_lines.recent_product_id", [customer], now)["customer_lines.recent_product_id"]
    return {
        "customer": customer,
        "bought_last": names(project, list(reversed(recent[0].to_list()))[:5], now),
        "recommended": names(project, list(answer.ids), now),
        "scores": [round(s, 3) for s in answer.scores if s is not None],
    }


def names(project: Project, products: list[Any], now: int) -> list[str]:
    """The descriptions of products."""
    from bedplate.canonical import string_ids

    keys = np.array(string_ids([str(p) for p in products]), np.int64).reshape(-1, 1)
    view = project.views["product_lines"]
    column = project.history.read(view, ["product_lines.description"], keys, np.full(len(keys), now))
    return column_to_series(column["product_lines.description"]).to_list()


def run(work: Path, steps: Steps, example: Path = HERE) -> dict[str, Any]:
    """The whole job on a copy of the example's folder; what it found."""
    project = steps.run("load and check the definitions", lambda: prepare(work, example))
    todo = [b for b in project.builds() if not b.is_complete]
    for build in todo:
        steps.show(f"to build: {build.view.name}, {build.snapshot.text}, about {build.seconds():.1f} s")
    if todo:
        steps.show("the first build on a machine also compiles its kernels, once; that takes some seconds more")
    steps.run("apply: build the as-of indexes that are missing", project.apply)
    dataset = steps.run("read the dataset's requests", lambda: project.load("baskets"))
    oracle = steps.run("compare features of test orders with the oracle", lambda: prove_features(project, dataset))
    steps.show(f"{oracle['values']:,} values of {oracle['orders']} orders are as of before each order")
    registry = project.registry
    trained = train_all(project, dataset, steps, registry)
    ranking = steps.run("rank the whole catalogue for test orders", lambda: judge(project, dataset, trained))
    start = dataset.compiled.dataset.split.test
    end = max(project.history.end(v) for v in project.views.values())
    store = project.open_store()
    try:
        report, rows, events = steps.run(
            "load the online store and stream the last weeks", lambda: replay(project, store, start, end, steps.show)
        )
    finally:
        store.close()
    report.require()
    served = steps.run("serve", lambda: serve(project, registry, end, steps))
    models = {n: {"version": str(t.version), "metrics": t.metrics} for n, t in trained.items()}
    catalogue = msgspec.to_builtins(ranking)
    return {
        "features": len(project.graph.features),
        "views": len(project.views),
        "built": [b.view.name for b in todo],
        "dataset": dataset.summary().form(),
        "models": models,
        "rows_per_second": {n: round(t.result.rows_per_second) for n, t in trained.items()},
        "catalogue": catalogue,
        "winners": winners(models, catalogue),
        "oracle": oracle,
        "parity": {"rows": rows, "values": report.values, "mismatches": report.mismatches, "events": events},
        "cut_off": format_time(start),
        "served": served,
        "seconds": steps.seconds | {"all": round(time.perf_counter() - steps.began, 1)},
    }


def check_places(work: Path, report: Path | None) -> None:
    """Checks before anything runs that the folder to work in and the report can be written.

    Raises:
        StoreError: one can't.
    """
    try:
        work.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=work):
            pass
    except OSError as error:
        raise StoreError(
            f"the folder can't be written: {error.strerror}", where=str(work), hint="name another: --work DIR"
        ) from error
    if report is None:
        return
    hint = "name a file in a folder that is there and may be written: --json FILE"
    if report.is_dir():
        raise StoreError("this is a folder, expected a file", where=str(report), hint=hint)
    try:
        with tempfile.TemporaryFile(dir=report.parent):
            pass
    except OSError as error:
        raise StoreError(f"the report can't be written: {error.strerror}", where=str(report), hint=hint) from error


def main(arguments: Sequence[str] | None = None, example: Path = HERE) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write what was found as JSON")
    parser.add_argument("--work", type=Path, default=Path(".demo"), metavar="DIR", help="where it works (.demo)")
    options = parser.parse_args(arguments)
    work, report = options.work.absolute(), options.json and options.json.absolute()
    try:
        check_places(work, report)
        found = run(work.resolve(), Steps(), example)
        print_report(found)
        if report is not None:
            write_atomic(report, msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n")
    except (TrainingInterruptedError, KeyboardInterrupt):
        sys.stderr.write("\ninterrupted; run it again: indexes that were built are kept, models are trained anew\n")
        return TrainingInterruptedError.exit_code
    except BedplateError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        sys.stderr.write(f"error: {place}{error.strerror or error}\n")
        return StoreError.exit_code
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main())
