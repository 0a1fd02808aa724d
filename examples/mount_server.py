"""Mount the server in an application of one's own: its API below /llm, beside own routes.

    python examples/mount_server.py
    curl http://127.0.0.1:8080/llm/v1/models

uvicorn examples.mount_server:app does the same.
"""

import argparse
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI

import mtad
from mtad.server.asgi import MtadApp
from mtad.server.settings import ServerSettings

llm = MtadApp(mtad.load_pair("demo"), ServerSettings(served_model_name="demo", max_rows=8))


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """What the whole application needs; without anything else, lifespan=llm.lifespan will do."""
    async with llm.lifespan():
        yield


app = FastAPI(title="Mine", lifespan=lifespan)
app.mount("/llm", llm)


@app.get("/hello")
def hello() -> dict[str, str]:
    """A route of one's own."""
    return {"hello": "world"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve the application until a signal comes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--port", type=int, default=8080)
    uvicorn.run(app, port=parser.parse_args(arguments).port)


if __name__ == "__main__":
    main()
