"""The demo's report for a person."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from winners import lines


def print_report(found: Mapping[str, Any]) -> None:
    """Prints what was found, what it proves and what not."""
    print(f"\nBedplate, Online Retail: {found['features']} features in {found['views']} views\n")
    print_models(found["models"], found["rows_per_second"])
    print_catalogue(found["catalogue"])
    print("\nWhich wins, by metric (each value, and the next best):")
    for line in lines(found["winners"]):
        print(f"  {line}")
    print_serving(found["served"])
    print_proofs(found)


def print_models(models: Mapping[str, Any], speed: Mapping[str, int]) -> None:
    names = ("auc", "request_auc", "log_loss", "normalised_entropy", "calibration")
    print("Test split (orders from 11 November 2011), negatives drawn by popularity:")
    print(f"  {'':18}" + "".join(f"{n:>20}" for n in names) + f"{'training rows/s':>18}")
    for name, model in models.items():
        values = [model["metrics"].get(f"test_{n}") for n in names]
        print(
            f"  {name:18}"
            + "".join(f"{'-' if v is None else format(v, '.4f'):>20}" for v in values)
            + f"{speed[name]:18,}"
        )


def print_catalogue(ranking: Mapping[str, Any]) -> None:
    print(f"\nWhole catalogue of {ranking['catalogue']:,} products, {ranking['requests']} test orders, 95 % intervals:")
    print(f"  {'':36}{'Recall@100':>28}{'NDCG@10':>28}")
    for name, row in sorted(ranking["table"].items(), key=lambda r: -r[1]["ndcg@10"]["mean"]):
        print(f"  {name:36}{interval(row['recall@100']):>28}{interval(row['ndcg@10']):>28}")


def interval(estimate: Mapping[str, float]) -> str:
    return f"{estimate['mean']:.4f} [{estimate['low']:.4f}, {estimate['high']:.4f}]"


def print_serving(served: Mapping[str, Any]) -> None:
    print(f"\nService, ready in {served['ready_seconds']} s; latency seen by a client on this machine:")
    for name, latency in served["latency"].items():
        print(f"  {name:38} p50 {latency['p50_ms']:7.2f} ms   p99 {latency['p99_ms']:7.2f} ms")
    for one in served["recommendations"]:
        print(f"\n  Customer {one['customer']} bought last:")
        for name in one["bought_last"]:
            print(f"      {name}")
        print("    is recommended:")
        for score, name in zip(one["scores"], one["recommended"], strict=True):
            print(f"      {score:6.3f}  {name}")


def print_proofs(found: Mapping[str, Any]) -> None:
    parity, wrong = found["parity"], sum(found["parity"]["mismatches"].values())
    print(f"\nParity online and history, {parity['rows']:,} rows, from {found['cut_off']} on:")
    different = {name: count for name, count in parity["mismatches"].items() if count}
    print(f"  {len(parity['mismatches'])} features, {len(different)} differ")
    for name, count in different.items():
        print(f"  {name}: {count:,} values differ")
    print("\nProven in this run:")
    print(
        f"  - {parity['values']:,} values read online, while {parity['events']:,} rows were streamed, against history:"
    )
    print(f"    {wrong} differ.")
    print(f"  - The server reproduces {found['served']['golden']} golden requests, sent as JSON and as binary tensors.")
    oracle = found["oracle"]
    print(f"  - {oracle['values']:,} values ({oracle['features']} features of {oracle['rows']} candidates of")
    print(f"    {oracle['orders']} test orders) are what a slow oracle computes from the raw rows before each order's")
    print("    own first line: an event never sees itself.")
    print("Not proven:")
    print("  - That recommendations sell more: offline metrics reward what customers bought without them.")
    print("  - Latency under concurrent load, and anything about machines that fail: see the tests and benchmarks.")
    print(f"\n{found['seconds']['all']} s in all")
