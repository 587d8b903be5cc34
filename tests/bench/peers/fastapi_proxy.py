"""The barest proxy of FastAPI and httpx: `python fastapi_proxy.py PORT UPSTREAM`.

It runs in an environment of its own, so it imports nothing of RoleMesh; see `cost.py`.
"""

import sys

import httpx  # type: ignore[import-not-found,unused-ignore]
import uvicorn  # type: ignore[import-not-found,unused-ignore]
from fastapi import FastAPI, Request  # type: ignore[import-not-found,unused-ignore]
from fastapi.responses import StreamingResponse  # type: ignore[import-not-found,unused-ignore]
from starlette.background import BackgroundTask  # type: ignore[import-not-found,unused-ignore]

app = FastAPI()
client = httpx.AsyncClient(timeout=60)


@app.post("/v1/chat/completions")
async def chat(request: Request) -> StreamingResponse:
    asked = client.build_request(
        "POST",
        sys.argv[2] + "/v1/chat/completions",
        content=await request.body(),
        headers={"content-type": "application/json"},
    )
    answer = await client.send(asked, stream=True)
    kept = ("content-type", "content-length")
    headers = {name: answer.headers[name] for name in kept if name in answer.headers}
    end = BackgroundTask(answer.aclose)
    return StreamingResponse(answer.aiter_raw(), answer.status_code, headers, background=end)


@app.get("/health")
async def health() -> str:
    return "ok"


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=False, log_level="warning")
