"""Bedplate and a real Triton side by side: what each answers to probes of the Open Inference Protocol.

    python benchmarks/oip_conformance.py --triton TRITON_VENV

Triton comes from the package nvidia-pytriton in an environment of its own, which is not Bedplate's: its libraries are
older. `python -m venv TRITON_VENV && TRITON_VENV/bin/pip install nvidia-pytriton` makes one (0.4 GB). Without it only
Bedplate is asked. What is right is what the published specification, its OpenAPI and proto files and the documents of
Triton's extensions say. Exits with 1 where Bedplate misses a probe.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path
from typing import Any

from oip_probes import HTTP
from oip_probes_grpc import GRPC
from oip_servers import Asked, bedplate, triton
from record import machine, save


def ask(server: Asked, probe: Any) -> dict[str, Any]:
    try:
        seen, right = probe(server)
    except Exception as error:  # noqa: BLE001  (whatever a server answers is what is reported)
        seen, right = f"{type(error).__name__}: {str(error)[:60]}", False
    return {"seen": seen, "right": bool(right)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--triton", type=Path, help="the environment with nvidia-pytriton")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    probes = [("HTTP", what, p) for what, p in HTTP.items()] + [("gRPC", what, p) for what, p in GRPC.items()]
    found: list[dict[str, Any]] = []
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(bedplate())]
        if options.triton is not None:
            servers.append(stack.enter_context(triton(options.triton.absolute())))
        for kind, what, probe in probes:
            seen = {server.name: ask(server, probe) for server in servers}
            found.append({"over": kind, "probe": what, **seen})
            marks = "  ".join(f"{n} {'yes' if s['right'] else 'NO '} {s['seen'][:44]:44}" for n, s in seen.items())
            differs = len({s["right"] for s in seen.values()}) > 1
            print(f"{'*' if differs else ' '} {kind} {what[:66]:66} {marks}")
    right = {server.name: sum(row[server.name]["right"] for row in found) for server in servers}
    print("  ".join(f"{name}: {count} of {len(found)}" for name, count in right.items()))
    result = {"machine": machine(), "right": right, "probes": len(found), "found": found}
    print(f"wrote {save('oip_conformance', result, options.json)}")
    sys.exit(0 if right["Bedplate"] == len(found) else 1)


if __name__ == "__main__":
    main()
