"""FastAPI on uvicorn: a raw body as binary form, lists checked by pydantic as JSON. See peer_scoring.py."""

from __future__ import annotations

import uvicorn
from fastapi import FastAPI, Request, Response
from peer_scoring import PORT, WORKERS, Scorer
from pydantic import BaseModel

app, scorer = FastAPI(), Scorer()


class Columns(BaseModel):
    request_dense: list[list[float]]
    request_ids: list[list[int]]
    item_dense: list[list[float]]
    item_ids: list[list[int]]
    request_of_item: list[int]


@app.post("/binary")
async def binary(request: Request) -> Response:
    length = int(request.headers["inference-header-content-length"])
    return Response(scorer.binary(await request.body(), length), media_type="application/octet-stream")


@app.post("/json")
async def columns(given: Columns) -> dict[str, list[float]]:
    return {"scores": scorer.columns(given.model_dump())}


if __name__ == "__main__":
    uvicorn.run("peer_fastapi:app", port=PORT, workers=WORKERS, access_log=False, log_level="error")
