"""Training from the same rows, split and model (DeepFM): FuxiCTR, RecBole, a plain PyTorch loop, and Bedplate.

    python benchmarks/train_peers.py --peers-python PYTHON [--rows 100000] [--users 943] [--epochs 3] [--json FILE]

PYTHON has both peers:

    python -m venv peers && peers/bin/pip install torch==2.13.0
    peers/bin/pip install --no-deps fuxictr==2.3.10 recbole==1.2.1
    peers/bin/pip install "ray[data,tune]" pandas scikit-learn h5py PyYAML tqdm polars pyarrow scipy colorlog \\
        colorama tensorboard thop tabulate plotly texttable psutil pydantic pytz

Seven ids of 16, two layers of 64 or those of `--layers`, batches of 4096, two threads. Each is a process of its own;
they take turns, and the median of the rounds counts: rows that were trained on over the seconds of the training epochs,
the loader's and all waiting included, preparation and evaluation not. Bedplate's are compared with a bare loop on ready
tensors too.
The peers read a table that is joined already; Bedplate joins the attributes of users and items as of each row's time.
FuxiCTR's two loaders both run, and the faster one counts. With `--users 9000000 --rows 200000 --epochs 1 --rounds 1`
the table has 9 million rows, and each does 40 steps: a dense optimiser takes seconds for one. `--only bedplate,recbole`
is a part of the comparison, which takes less time. The AUC on the test split must be no worse than the peers'.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import ctr_data
from record import judge, machine, save

HERE = Path(__file__).parent
PARTS = ("bedplate", "plain", "recbole", "fuxictr npz", "fuxictr parquet")
SMALL, LARGE = {"fuxictr": 5.0, "recbole": 1.3}, {"fuxictr": 10.0, "recbole": 10.0}
"""How many times their rows a second are wanted, with a small table and with 9 million rows."""
SHARE = 0.95
"""Of the rows a second of the same model fed from memory."""
NOISE = 0.005
"""Of the AUC on 10,000 rows: its standard error."""


def measured(python: str, script: str, folder: Path, *arguments: object) -> dict[str, Any]:
    """The last line of JSON that a part prints; libraries print lines of their own."""
    paths = (
        [str(HERE), *os.environ.get("PYTHONPATH", "").split(os.pathsep)] if python == sys.executable else [str(HERE)]
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in paths if p), "OMP_NUM_THREADS": "2"}
    command = [python, str(HERE / f"{script}.py"), str(folder), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=folder)
    if done.returncode:
        raise SystemExit(f"{script} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return json.loads([line for line in done.stdout.splitlines() if line.startswith("{")][-1])


def round_of(peers: str, users: int, items: int, epochs: int, data: Path, only: list[str]) -> dict[str, dict[str, Any]]:
    """One run of each that is wanted, in folders of their own."""
    found: dict[str, dict[str, Any]] = {}
    parts = {
        "bedplate": (sys.executable, "train_bedplate"),
        "plain": (sys.executable, "train_plain"),
        "recbole": (peers, "train_recbole"),
        "fuxictr npz": (peers, "train_fuxictr", "npz"),
        "fuxictr parquet": (peers, "train_fuxictr", "parquet"),
    }
    for name, (python, script, *more) in parts.items():
        if name not in only:
            continue
        with tempfile.TemporaryDirectory(dir=data.parent) as folder:
            for path in data.iterdir():
                os.link(path, Path(folder) / path.name)
            found[name] = measured(python, script, Path(folder), users, items, epochs, *more)
        print(f"  {name:16} {found[name]['rows'] / found[name]['seconds']:12,.0f} rows/s  AUC {found[name]['auc']:.4f}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--peers-python", required=True, help="a Python that has FuxiCTR and RecBole")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--users", type=int, default=943)
    parser.add_argument("--items", type=int, default=1682)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--layers", default="64,64", help="of every model, commas between")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default=",".join(PARTS), help="whose turn it is, commas between")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    os.environ["CTR_LAYERS"] = args.layers
    rounds: list[dict[str, dict[str, Any]]] = []
    only = args.only.split(",")
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        data.mkdir()
        ctr_data.write(data, args.rows, args.users, args.items)
        (data / "shape.json").write_text(json.dumps({"rows": args.rows}))
        for number in range(args.rounds):
            print(f"round {number + 1}: {args.rows:,} rows, {args.users:,} users, {args.epochs} epochs")
            rounds.append(round_of(args.peers_python, args.users, args.items, args.epochs, data, only))
    speed = {n: statistics.median(r[n]["rows"] / r[n]["seconds"] for r in rounds) for n in rounds[0]}
    aucs = {n: statistics.median(r[n]["auc"] for r in rounds) for n in rounds[0]}
    if of_fuxictr := [v for n, v in speed.items() if n.startswith("fuxictr")]:
        speed["fuxictr"] = max(of_fuxictr)
    targets = LARGE if args.users > args.rows else SMALL
    ratios = {n: speed["bedplate"] / speed[n] for n in ("fuxictr", "recbole", "plain") if n in speed}
    for name, ratio in ratios.items():
        print(f"bedplate / {name}: {ratio:.2f}x")
    waiting = statistics.median(r["bedplate"]["waiting"] for r in rounds)
    print(f"bedplate waited for data {waiting:.1%} of the time")
    share = statistics.median(share for r in rounds for share in r["bedplate"]["shares"])
    print(f"bedplate has {share:.1%} of the rows/s of the same model fed from memory")
    best = max(v for n, v in aucs.items() if n != "bedplate")
    wanted = {f"times the rows/s of {n}": (ratios[n], ">=", t) for n, t in targets.items() if n in ratios}
    wanted["share of the rows/s of the same model fed from memory"] = (share, ">=", SHARE)
    wanted["AUC on the test split, less the best other"] = (aucs["bedplate"] - best, ">=", -NOISE)
    result = {"rows": args.rows, "users": args.users, "epochs": args.epochs, "layers": args.layers, "rounds": rounds}
    result |= {"rows_per_second": speed, "auc": aucs, "ratios": ratios, "waiting": waiting, "share": share}
    code = judge(result, wanted)
    suffix = "" if only == list(PARTS) else "-" + "-".join(n.replace(" ", "_") for n in only if n != "bedplate")
    suffix += "" if args.layers == "64,64" else "-layers_" + args.layers.replace(",", "_")
    save(("train_peers_large" if args.users > args.rows else "train_peers") + suffix, machine() | result, args.json)
    return code


if __name__ == "__main__":
    sys.exit(main())
