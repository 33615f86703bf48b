"""Compressed requests and answers: gzip and deflate, within bounds.

A request is decompressed up to the limit of its body and no further, so that a small one can't become a large one. An
answer is compressed for a client that accepts it, where it is large enough for that to pay.
"""

from __future__ import annotations

import zlib

from bedplate.errors import BedplateError, RequestError
from bedplate.http.message import Request, Response

LEAST_BYTES = 4096
"""Answers below this size go as they are: compressing takes longer than sending."""
_GZIP, _ZLIB, _RAW = 31, 15, -15  # zlib's names of the formats
_MOST_MEMBERS = 16  # of a gzip body: each end costs a copy of what follows it
_LEVEL = 1  # numbers hardly shrink further at a higher one, and it takes several times as long


class _TooLargeError(BedplateError):
    http_status = 413


class _EncodingError(BedplateError):
    http_status = 415


def decompress(request: Request) -> None:
    """Replaces a compressed body by what it stands for, where a request has a header `Content-Encoding`.

    Raises:
        RequestError: the body is damaged.
        BedplateError: 413, it is larger; 415, it is compressed in another way.
    """
    encoding = request.headers.get(b"content-encoding")
    if encoding is None:
        return
    kind = encoding.strip().lower()
    if kind in (b"gzip", b"x-gzip"):
        request.body = _inflate(request.body, _GZIP, request.most_bytes)
    elif kind == b"deflate":
        # The name means zlib's format; some clients send the bare one.
        is_zlib = len(request.body) > 1 and request.body[0] & 15 == 8 and int.from_bytes(request.body[:2]) % 31 == 0
        request.body = _inflate(request.body, _ZLIB if is_zlib else _RAW, request.most_bytes)
    elif kind not in (b"identity", b""):
        shown = kind.decode("latin-1")
        raise _EncodingError(f"got a body in '{shown}', expected gzip, deflate or identity", where="Content-Encoding")


def compress(request: Request, response: Response) -> Response:
    """The answer, compressed where the client accepts that and it is worth it."""
    accepted = request.headers.get(b"accept-encoding")
    if accepted is None or len(response.body) < LEAST_BYTES:
        return response
    kind = _chosen(accepted)
    if kind is None:
        return response
    packer = zlib.compressobj(_LEVEL, wbits=_GZIP if kind == b"gzip" else _ZLIB)
    body = packer.compress(response.body) + packer.flush()
    more = ((b"Content-Encoding", kind), (b"Vary", b"Accept-Encoding"))
    return Response(response.status, body, response.content_type, response.headers + more)


def _inflate(body: bytes, kind: int, most_bytes: int) -> bytes:
    parts: list[bytes] = []
    left = most_bytes
    for _ in range(_MOST_MEMBERS):
        unpacker = zlib.decompressobj(kind)
        try:
            part = unpacker.decompress(body, left + 1)
        except zlib.error as error:
            raise RequestError(f"the compressed body is damaged: {error}") from error
        if len(part) > left:
            raise _TooLargeError(f"the decompressed body is larger than {most_bytes} bytes")
        if not unpacker.eof:
            raise RequestError("the compressed body ends too soon")
        parts.append(part)
        left -= len(part)
        body = unpacker.unused_data
        if not body:
            return parts[0] if len(parts) == 1 else b"".join(parts)
        if kind != _GZIP:
            raise RequestError(f"got {len(body)} bytes after the end of the compressed body")
    raise RequestError(f"the compressed body has more than {_MOST_MEMBERS} members")


def _chosen(accepted: bytes) -> bytes | None:
    """The encoding of an `Accept-Encoding` header that is taken: gzip before deflate, unless its weight is 0.

    >>> _chosen(b"gzip, deflate, br"), _chosen(b"deflate;q=0.5"), _chosen(b"gzip;q=0, *"), _chosen(b"br")
    (b'gzip', b'deflate', None, None)
    """
    named: dict[bytes, bool] = {}
    for part in accepted.lower().split(b","):
        name, _, weight = part.partition(b";")
        named[name.strip()] = weight.strip().replace(b" ", b"") not in (b"q=0", b"q=0.0", b"q=0.00", b"q=0.000")
    return next((kind for kind in (b"gzip", b"deflate") if named.get(kind)), None)
