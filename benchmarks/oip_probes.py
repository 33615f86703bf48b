"""Probes of the Open Inference Protocol over HTTP: each asks a server something and says what the specification wants.

A probe gives what it saw, as a short text, and whether that is what the published specification or extension says. A
refusal is 400 with `{"error": text}` where the published OpenAPI says 400, and any 4xx where it says "typically 400".
"""

from __future__ import annotations

import gzip
import http.client
import json
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from oip_servers import TYPES, Asked

Seen = tuple[str, bool]
HTTP: dict[str, Callable[[Asked], Seen]] = {}
ONE = "/v2/models/one/infer"
ECHO = "/v2/models/echo/infer"


def probe(what: str) -> Callable[[Callable[[Asked], Seen]], Callable[[Asked], Seen]]:
    def add(function: Callable[[Asked], Seen]) -> Callable[[Asked], Seen]:
        HTTP[what] = function
        return function

    return add


def call(server: Asked, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any, dict[str, str]]:
    content = json.dumps(body).encode() if isinstance(body, dict | list) else body
    connection = http.client.HTTPConnection("127.0.0.1", server.http, timeout=20)
    try:
        connection.request(method, path, content, {k.replace("_", "-"): v for k, v in headers.items()})
        response = connection.getresponse()
        return response.status, response.read(), {k.lower(): v for k, v in response.getheaders()}
    finally:
        connection.close()


def parsed(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return None


def refused(path: str, body: Any, allowed: tuple[int, ...] = (400,), method: str = "POST", **headers: str) -> Any:
    """A probe that a request is refused."""

    def ask(server: Asked) -> Seen:
        status, content, _ = call(server, method, path, body, **headers)
        shown = parsed(content)
        says = isinstance(shown, dict) and isinstance(shown.get("error"), str) and "Traceback" not in shown["error"]
        return f"{status}{'' if says else ' without error'}", status in allowed and says

    return ask


def one(shape: Any = (1, 2), data: Any = (0.5, 1.5), datatype: Any = "FP32", name: Any = "in", **more: Any) -> Any:
    made = {"name": name, "shape": list(shape), "datatype": datatype, "data": data}
    return {"inputs": [{k: v for k, v in made.items() if v is not ...}], **more}


def binary(shape: Any, content: bytes, size: int | None = None, **more: Any) -> tuple[bytes, str]:
    parameters = {"binary_data_size": len(content) if size is None else size}
    asked = {"inputs": [{"name": "in", "shape": shape, "datatype": "FP32", "parameters": parameters}], **more}
    header = json.dumps(asked).encode()
    return header + content, str(len(header))


def values(kind: str) -> Any:
    if kind == "BYTES":
        return np.array(["é", "", "abc"], object)
    return np.array([0, 1, 1] if kind == "BOOL" else [0, 1, 100], TYPES[kind])


def fields(method: str, path: str, names: set[str], body: Any = None) -> Any:
    """A probe that an answer is an object with at least these fields."""

    def ask(server: Asked) -> Seen:
        status, content, _ = call(server, method, path, body)
        shown = parsed(content)
        missing = sorted(names - set(shown)) if isinstance(shown, dict) else sorted(names)
        return f"{status}" + (f", lacks {', '.join(missing)}" if missing else ""), status == 200 and not missing

    return ask


def status_of(method: str, path: str, allowed: tuple[int, ...]) -> Any:
    def ask(server: Asked) -> Seen:
        status = call(server, method, path)[0]
        return str(status), status in allowed

    return ask


def broken(shape: Any, size: int, *, says: int | None = None, more: bytes = b"", length: str | None = None) -> Any:
    """A probe that a request with binary data is refused."""
    body, right = binary(shape, bytes(size), says)
    return refused(ONE, body + more, Inference_Header_Content_Length=length or right)


REGION = one(data=..., parameters={})
REGION["inputs"][0]["parameters"] = {"shared_memory_region": "r", "shared_memory_byte_size": 8}
SERVER, MODEL = {"name", "version", "extensions"}, {"name", "versions", "platform", "inputs", "outputs"}
HTTP |= {
    "live is 200": status_of("GET", "/v2/health/live", (200,)),
    "ready is 200": status_of("GET", "/v2/health/ready", (200,)),
    "the server's metadata": fields("GET", "/v2", SERVER),
    "the server's metadata, as the OpenAPI file writes the path": fields("GET", "/v2/", SERVER),
    "a model's metadata": fields("GET", "/v2/models/one", MODEL),
    "a version's metadata": fields("GET", "/v2/models/one/versions/1", MODEL),
    "an unknown model's metadata": refused("/v2/models/x", None, (400, 404), "GET"),
    "a model is ready": status_of("GET", "/v2/models/one/versions/1/ready", (200,)),
    "an unknown model is not ready": status_of("GET", "/v2/models/x/ready", (400, 404)),
    "a model's configuration": fields("GET", "/v2/models/one/config", {"name", "input", "output", "max_batch_size"}),
    "statistics of a model": fields("GET", "/v2/models/one/versions/1/stats", {"model_stats"}),
    "statistics of all models": fields("GET", "/v2/models/stats", {"model_stats"}),
    "statistics of an unknown model": refused("/v2/models/x/stats", None, (400, 404), "GET"),
    "not JSON": refused(ONE, b"{"),
    "an empty body": refused(ONE, b""),
    "no inputs": refused(ONE, {}),
    "an input is missing": refused(ONE, {"inputs": []}),
    "an unknown input": refused(ONE, one(name="x")),
    "an input twice": refused(ONE, {"inputs": one()["inputs"] * 2}),
    "no datatype": refused(ONE, one(datatype=...)),
    "an unknown datatype": refused(ONE, one(datatype="FLOAT")),
    "another datatype than the model's": refused(ONE, one(datatype="INT32", data=[1, 2])),
    "another number of axes": refused(ONE, one(shape=(2,))),
    "another fixed size": refused(ONE, one(shape=(1, 3), data=[1, 2, 3])),
    "a negative size": refused(ONE, one(shape=(-1, 2))),
    "a size beyond 64 bits in all": refused(ONE, one(shape=(2**62, 2))),
    "too few values": refused(ONE, one(data=[1.0])),
    "too many values": refused(ONE, one(data=[1.0, 2.0, 3.0])),
    "values of another kind": refused(ONE, one(data=["a", "b"])),
    "null among the values": refused(ONE, one(data=[None, 1.0])),
    "NaN among the values, which JSON has not": refused(ONE, json.dumps(one(data=[float("nan"), 1.0])).encode()),
    "no data": refused(ONE, one(data=...)),
    "a nesting of 100,000 lists": refused(ONE, b'{"inputs":' + b"[" * 100_000),
    "an unknown output": refused(ONE, one(outputs=[{"name": "x"}])),
    "an id that is a number": refused(ONE, one(id=7)),
    "a region of shared memory that nobody registered": refused(ONE, REGION),
    "an unknown model": refused("/v2/models/x/infer", one(), (400, 404)),
    "an unknown version": refused("/v2/models/one/versions/9/infer", one(), (400, 404)),
    "GET where POST is meant": status_of("GET", ONE, (400, 405)),
    "an unknown path": status_of("GET", "/v2/nothing", (400, 404)),
    "a header length that is no number": broken([1, 2], 8, length="x"),
    "a header length beyond the body": broken([1, 2], 8, length="9999"),
    "binary data of another size than the shape says": broken([2, 2], 8),
    "a binary size beyond the body": broken([1, 2], 4, says=8),
    "bytes after the last tensor": broken([1, 2], 8, more=b"more"),
    "a damaged gzip body": refused(ONE, b"nonsense", Content_Encoding="gzip"),
    "an unknown Content-Encoding": refused(ONE, one(), (400, 415), Content_Encoding="br"),
    "loading an unknown model": refused("/v2/repository/models/x/load", None, (400, 404)),
    "unloading an unknown model": refused("/v2/repository/models/x/unload", None, (400, 404)),
}  # fmt: skip


@probe("values out of a datatype's range")
def _(server: Asked) -> Seen:
    inputs = [
        {"name": f"in_{k}", "shape": [3], "datatype": k, "data": values(k).tolist()} for k in TYPES if k != "FP16"
    ]
    inputs.append({"name": "in_FP16", "shape": [3], "datatype": "FP16", "data": [0, 1, 2]})
    for given in inputs:
        if given["name"] == "in_INT8":
            given["data"] = [300, 0, 0]
    return refused(ECHO, {"inputs": inputs})(server)


@probe("FP32 in JSON, flat and nested, gives the values, the name and the version")
def _(server: Asked) -> Seen:
    seen = []
    for data in ([0.5, 1.5], [[0.5, 1.5]]):
        status, content, _ = call(server, "POST", ONE, one(data=data))
        shown = parsed(content) or {}
        output = (shown.get("outputs") or [{}])[0]
        right = (output.get("data"), output.get("shape"), output.get("datatype")) == ([0.5, 1.5], [1, 2], "FP32")
        named = (shown.get("model_name"), shown.get("model_version"), output.get("name")) == ("one", "1", "out")
        seen.append(status == 200 and right and named)
    return str(seen), all(seen)


@probe("every datatype in JSON")
def _(server: Asked) -> Seen:
    inputs = [{"name": f"in_{k}", "shape": [3], "datatype": k, "data": values(k).tolist()} for k in TYPES]
    status, content, _ = call(server, "POST", ECHO, {"inputs": inputs})
    if status != 200:
        return f"{status} {(parsed(content) or {}).get('error', '')[:80]}", False
    outputs = {o["name"]: o["data"] for o in parsed(content)["outputs"]}
    wrong = [k for k in TYPES if outputs.get(f"out_{k}") != values(k).tolist()]
    return f"200, wrong: {wrong}", not wrong


@probe("every datatype in binary, both ways")
def _(server: Asked) -> Seen:
    contents = {k: values(k).tobytes() for k in TYPES if k != "BYTES"}
    contents["BYTES"] = b"".join(struct.pack("<I", len(v.encode())) + v.encode() for v in values("BYTES"))
    inputs = [
        {"name": f"in_{k}", "shape": [3], "datatype": k, "parameters": {"binary_data_size": len(c)}}
        for k, c in contents.items()
    ]
    header = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    body = header + b"".join(contents.values())
    status, content, headers = call(server, "POST", ECHO, body, Inference_Header_Content_Length=str(len(header)))
    if status != 200:
        return f"{status} {(parsed(content) or {}).get('error', '')[:80]}", False
    size, wrong = int(headers["inference-header-content-length"]), []
    for output in parsed(content[:size])["outputs"]:
        end = size + output["parameters"]["binary_data_size"]
        if content[size:end] != contents[output["datatype"]]:
            wrong.append(output["datatype"])
        size = end
    return f"200, wrong: {wrong}", not wrong and size == len(content)


@probe("binary_data false overrides binary_data_output")
def _(server: Asked) -> Seen:
    more = {
        "outputs": [{"name": "out", "parameters": {"binary_data": False}}],
        "parameters": {"binary_data_output": True},
    }
    status, content, _ = call(server, "POST", ONE, one(**more))
    shown = parsed(content) or {}
    return str(status), status == 200 and shown["outputs"][0].get("data") == [0.5, 1.5]


@probe("the id comes back, and unknown parameters do no harm")
def _(server: Asked) -> Seen:
    status, content, _ = call(server, "POST", ONE, one(id="42", parameters={"a": 1, "b": "two", "c": True, "d": 0.5}))
    got = (parsed(content) or {}).get("id")
    return f"{status}, id {got}", status == 200 and got == "42"


@probe("outputs are those that are asked for")
def _(server: Asked) -> Seen:
    inputs = [
        {"name": f"in_{k}", "shape": [3], "datatype": k, "data": values(k).tolist()} for k in TYPES if k != "FP16"
    ]
    content = values("FP16").tobytes()
    inputs.append(
        {"name": "in_FP16", "shape": [3], "datatype": "FP16", "parameters": {"binary_data_size": len(content)}}
    )
    header = json.dumps({"inputs": inputs, "outputs": [{"name": "out_INT8"}, {"name": "out_BOOL"}]}).encode()
    status, answer, _ = call(server, "POST", ECHO, header + content, Inference_Header_Content_Length=str(len(header)))
    names = {o["name"] for o in (parsed(answer) or {}).get("outputs", [])}
    return f"{status} {sorted(names)}", names == {"out_INT8", "out_BOOL"}


def _packed(name: str, pack: Callable[[bytes], bytes]) -> Callable[[Asked], Seen]:
    def ask(server: Asked) -> Seen:
        rows = 20_000
        body = json.dumps(one(shape=(rows, 2), data=[0.5] * 2 * rows)).encode()
        sent = {"Content_Encoding": name, "Accept_Encoding": name}
        status, content, headers = call(server, "POST", ONE, pack(body), **sent)
        got = headers.get("content-encoding", "identity")
        unpack = {"gzip": gzip.decompress, "deflate": zlib.decompress}.get(got, bytes)
        right = status == 200 and parsed(unpack(content))["outputs"][0]["data"] == [0.5] * 2 * rows
        return f"{status}, answer in {got}", right and got == name

    return ask


HTTP["a request and an answer in gzip"] = _packed("gzip", gzip.compress)
HTTP["a request and an answer in deflate"] = _packed("deflate", zlib.compress)


@probe("a body in chunks")
def _(server: Asked) -> Seen:
    body = json.dumps(one()).encode()
    connection = http.client.HTTPConnection("127.0.0.1", server.http, timeout=20)
    parts, headers = iter([body[:10], body[10:40], body[40:]]), {"Transfer-Encoding": "chunked"}
    connection.request("POST", ONE, parts, headers, encode_chunked=True)
    status = connection.getresponse().status
    connection.close()
    return str(status), status == 200


@probe("three requests over one connection")
def _(server: Asked) -> Seen:
    connection = http.client.HTTPConnection("127.0.0.1", server.http, timeout=20)
    seen = []
    connection.connect()
    held = connection.sock
    for _ in range(3):
        connection.request("POST", ONE, json.dumps(one()).encode())
        response = connection.getresponse()
        response.read()
        seen.append(response.status == 200 and connection.sock is held)
    connection.close()
    return str(seen), all(seen)


@probe("a tensor of 8 MB in binary")
def _(server: Asked) -> Seen:
    content = np.arange(2_000_000, dtype=np.float32).tobytes()
    body, length = binary([1_000_000, 2], content, parameters={"binary_data_output": True})
    status, answer, _ = call(server, "POST", ONE, body, Inference_Header_Content_Length=length)
    return str(status), status == 200 and answer.endswith(content)


@probe("100 MB of zeros in a gzip body are refused, or answered as not JSON")
def _(server: Asked) -> Seen:
    return refused(ONE, gzip.compress(bytes(100_000_000), 1), (400, 413), Content_Encoding="gzip")(server)


@probe("statistics count what was answered and what failed")
def _(server: Asked) -> Seen:
    def stats() -> Any:
        shown = parsed(call(server, "GET", "/v2/models/one/stats")[1])["model_stats"][0]
        return shown["inference_count"], shown["inference_stats"]["success"]["count"]

    before = stats()
    for _ in range(3):
        call(server, "POST", ONE, one())
    after = stats()
    more = [a - b for a, b in zip(after, before, strict=True)]
    return f"+{more}", more == [3, 3]


@probe("the repository's index")
def _(server: Asked) -> Seen:
    status, content, _ = call(server, "POST", "/v2/repository/index", {})
    rows = parsed(content) or []
    names = {row["name"] for row in rows if row.get("state") == "READY"}
    ready = parsed(call(server, "POST", "/v2/repository/index", {"ready": True})[1])
    right = all({"name", "state", "reason"} <= row.keys() for row in ready) and {r["name"] for r in ready} == names
    return f"{status} {sorted(names)}", status == 200 and names == {"echo", "one"} and right


@probe("a model is loaded in another version and unloaded, and loaded again")
def _(server: Asked) -> Seen:
    config = {"version_policy": {"specific": {"versions": [2]}}}
    if server.name == "Triton":  # which wants the rest of the configuration too
        config |= {"backend": "python", "max_batch_size": 0}
        config |= {f"{s}put": [{"name": s, "data_type": "TYPE_FP32", "dims": [-1, 2]}] for s in ("in", "out")}
    seen = [call(server, "POST", "/v2/repository/models/one/load", {"parameters": {"config": json.dumps(config)}})[0]]
    seen += [call(server, "GET", f"/v2/models/one/versions/{v}/ready")[0] for v in ("1", "2")]
    seen.append(call(server, "POST", "/v2/repository/models/one/unload")[0])
    seen.append(call(server, "GET", "/v2/models/one/ready")[0])
    seen.append(call(server, "POST", "/v2/repository/models/one/load", {})[0])
    seen.append(call(server, "GET", "/v2/models/one/versions/1/ready")[0])
    right = [seen[0], seen[2], seen[3], seen[5], seen[6]] == [200] * 5 and 400 <= seen[1] < 500 and 400 <= seen[4] < 500
    return str(seen), right
