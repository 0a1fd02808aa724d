"""A request from its body to the scheduler, until all of it has been made or its client has gone.

Knows no format.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from functools import partial
from typing import Any, TypeVar

import anyio.to_thread
from fastapi import Request
from starlette.requests import ClientDisconnect

from mtad.errors import MtadError
from mtad.server.api.errors import as_api_error, refusal
from mtad.server.api.parsing import ParsedRequest, parse
from mtad.server.api.request_models import ChatRequest, CompletionRequest
from mtad.server.api.service import Decodes, Service
from mtad.server.api.submission import Submission
from mtad.server.scheduler.sequence import Chunk

T = TypeVar("T")


async def parsed_off_loop(
    service: Service, body: ChatRequest | CompletionRequest, request: Request
) -> ParsedRequest:
    """What a request asks for, its texts held to their form; made beside the event loop.

    Args:
        service: what all routes share.
        body: what is asked for.
        request: that it came with.

    Raises:
        ApiError: a parameter that cannot be honoured.
    """
    work = partial(parse, service, body)
    parsed = await service.texts.off_loop(work, len(await request.body()))
    if parsed.form is not None:
        await anyio.to_thread.run_sync(parsed.hold, service, limiter=service.compiling)
    return parsed


def submit(scheduler: Decodes, parsed: ParsedRequest, request: Request) -> Submission:
    """Submit a request's sequences; log and spans find them in its state.

    Raises:
        ApiError: the scheduler refuses one of them, and so takes none.
    """
    for sequence in parsed.sequences:
        sequence.request_id = getattr(request.state, "request_id", "")
        sequence.client = getattr(request.state, "client", None)
    form = None if parsed.form is None else parsed.form.param
    try:
        submission = Submission(scheduler, parsed.sequences, form)
    except (ValueError, MtadError) as error:
        raise refusal(error, parsed.prompt_param, parsed.budget_param) from error
    request.state.user, request.state.sequences = parsed.body.user, parsed.sequences
    request.state.parsed = parsed
    return submission


async def finished(submission: Submission, request: Request) -> list[list[Chunk]]:
    """The chunks of each sequence, once all have ended; they are cancelled if the client goes.

    Raises:
        ApiError: one of the sequences failed.
        ClientDisconnect: the client has gone.
    """
    try:
        return await unless_gone(request, _collected(submission))
    except ClientDisconnect:
        raise
    except Exception as error:
        raise as_api_error(error, submission.form) from error
    finally:
        submission.cancel()


async def _collected(submission: Submission) -> list[list[Chunk]]:
    """The chunks of each sequence, once all have ended."""
    chunks: list[list[Chunk]] = [[] for _ in submission.sequences]
    async for chunk in submission.chunks():
        if chunk is not None:
            chunks[chunk.sequence.index].append(chunk)
    return chunks


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """What `work` returns; it is given up as soon as the client goes away.

    Raises:
        ClientDisconnect: the client has gone.
    """
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        for task in (working, leaving):
            task.cancel()


async def _gone(request: Request) -> None:
    """Return once the client has gone; to be used after the body was read."""
    while (await request.receive())["type"] != "http.disconnect":
        continue
