"""Load on a server: throughput and latencies by number of clients, leaks, clients that go away.

    python benchmarks/serve_load.py load --output benchmarks/results/FOLDER/serve
    python benchmarks/serve_load.py load --server transformers      # the same requests, theirs
    python benchmarks/serve_load.py load --pair smollm2 --requests 64
    python benchmarks/serve_load.py soak --requests 10000
    python benchmarks/serve_load.py disconnect --clients 1000

Starts a server on a free port of 127.0.0.1 and ends it afterwards; nothing leaves the machine.
Requests are the held-out prompts of the embedded pair, or chats of the bundled tasks for another
one, in a fixed order, each with its own seed. Clients send one request after the other (a closed
loop). Every figure is of the client's side: TTFT is from sending until the first text, TPOT the
time after it per token that comes after it, and throughput all output tokens over the time of the
level.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import httpx
import psutil
import typer
from forms import mixed
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from mtad import demo
from mtad.bench.speed.prompts import task_prompts
from mtad.pairs import DEMO, PAIRS, PairName
from mtad.server.scheduler.batch import MOST_RECORDED

PATIENCE_S = 180.0
Server: TypeAlias = Literal["mtad", "transformers", "both"]
PERCENTILES = (50, 90, 99)
ROUNDS = 10
NUM_CHATS = 300
app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
screen = Console(stderr=True, highlight=False)


@dataclass(frozen=True)
class Answer:
    """What one request brought.

    Attributes:
        ttft_s: seconds until the first text.
        total_s: seconds until the end.
        num_tokens: of the output.
        text: the whole.
        num_steps: iterations.
        num_forced: those of the tokens that a grammar forced.
    """

    ttft_s: float
    total_s: float
    num_tokens: int
    text: str
    num_steps: int = 0
    num_forced: int = 0

    @property
    def tpot_s(self) -> float | None:
        """Seconds per token after the first text, as if that had been one token."""
        after = self.num_tokens - 1
        return (self.total_s - self.ttft_s) / after if after > 0 else None


@dataclass(frozen=True)
class Level:
    """The figures of one number of clients; seconds, and tokens per second."""

    server: str
    clients: int
    requests: int
    output_tokens: int
    wall_s: float
    tokens_per_s: float
    ttft_s: dict[str, float]
    tpot_s: dict[str, float]
    e2e_s: dict[str, float]


def percentiles(values: list[float]) -> dict[str, float]:
    """Mean and percentiles by name."""
    ordered = sorted(values)
    found = {"mean": statistics.fmean(ordered)}
    for percent in PERCENTILES:
        found[f"p{percent}"] = ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]
    return found


def bodies(
    count: int, max_tokens: int, model: str, more: dict[str, Any], pair: str = DEMO
) -> list[dict[str, Any]]:
    """The requests, the same in every run."""
    heldout = [item["prompt"] for task in ("python", "sql") for item in demo.heldout(task)]
    prompts = heldout if pair == DEMO else task_prompts(NUM_CHATS)
    return [
        {
            "model": model,
            **_prompt(prompts[i % len(prompts)]),
            "max_tokens": max_tokens,
            "seed": i,
            "stream": True,
            "stream_options": {"include_usage": True},
            **more,
        }
        for i in range(count)
    ]


def _prompt(prompt: Any) -> dict[str, Any]:
    return {"prompt": prompt} if isinstance(prompt, str) else {"messages": list(prompt)}


async def events(response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    """The events of a stream up to [DONE]."""
    async for line in response.aiter_lines():
        if line.startswith("data: ") and line != "data: [DONE]":
            yield json.loads(line.removeprefix("data: "))


def path_of(body: dict[str, Any]) -> str:
    """Where a request goes."""
    return "/v1/chat/completions" if "messages" in body else "/v1/completions"


async def ask(client: httpx.AsyncClient, body: dict[str, Any]) -> Answer:
    """Send one request and read its stream."""
    began = time.perf_counter()
    first, count, counts, text = None, 0, (0, 0), ""
    async with client.stream("POST", path_of(body), json=body) as response:
        if response.status_code != 200:
            raise RuntimeError(f"{response.status_code}: {(await response.aread())[:300]!r}")
        async for event in events(response):
            if "error" in event:
                raise RuntimeError(str(event["error"]))
            choice = event["choices"][0] if event.get("choices") else {}
            piece = choice.get("text") or choice.get("delta", {}).get("content")
            if piece and first is None:
                first = time.perf_counter()
            text += piece or ""
            if event.get("usage"):
                count = event["usage"]["completion_tokens"]
            if event.get("metrics"):
                found = event["metrics"]["speculative_decoding"]
                counts = found["num_spec_steps"], found["num_forced_tokens"]
    ended = time.perf_counter()
    return Answer((first or ended) - began, ended - began, count, text, *counts)


async def level(
    url: str, work: list[dict[str, Any]], clients: int, name: str = "mtad"
) -> tuple[Level, list[Answer]]:
    """All requests, sent by so many clients."""
    left: Iterator[tuple[int, dict[str, Any]]] = iter(enumerate(work))
    answers: dict[int, Answer] = {}
    pool = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
    with Progress(console=screen, transient=True) as progress:
        bar = progress.add_task(f"{name}, {clients} clients", total=len(work))
        async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_S, limits=pool) as client:

            async def one() -> None:
                for index, body in left:
                    answers[index] = await ask(client, body)
                    progress.advance(bar)

            began = time.perf_counter()
            await asyncio.gather(*(one() for _ in range(clients)))
            wall = time.perf_counter() - began
    found = [answers[index] for index in range(len(work))]
    tokens = sum(answer.num_tokens for answer in found)
    figures = Level(
        server=name,
        clients=clients,
        requests=len(work),
        output_tokens=tokens,
        wall_s=wall,
        tokens_per_s=tokens / wall,
        ttft_s=percentiles([a.ttft_s for a in found]),
        tpot_s=percentiles([a.tpot_s for a in found if a.tpot_s is not None] or [0.0]),
        e2e_s=percentiles([a.total_s for a in found]),
    )
    return figures, found


@contextlib.contextmanager
def mtad_server(*flags: str) -> Iterator[tuple[str, psutil.Process]]:
    """The address of a server of mtad's, the embedded pair unless flags say so, and its process."""
    command = [_program("mtad"), "serve", "--port", "0", "--max-queue", "4096", *flags]
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(open(os.devnull, "w"))
        process = stack.enter_context(
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        )
        stack.callback(_end, process)
        assert process.stdout is not None
        url = re.search(r"http://\S+", process.stdout.readline())
        if url is None:
            raise RuntimeError(f"{' '.join(command)} did not start")
        yield url.group(), psutil.Process(process.pid)


@contextlib.contextmanager
def transformers_server(target: str) -> Iterator[tuple[str, psutil.Process]]:
    """The address of transformers' own server of a target, and its process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [
        _program("transformers"),
        "serve",
        target,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + PATIENCE_S
        while not _answers(f"{url}/health"):
            if time.monotonic() > until or process.poll() is not None:
                raise RuntimeError(f"{' '.join(words)} did not start")
            time.sleep(0.5)
        yield url, psutil.Process(process.pid)
    finally:
        _end(process)


def _program(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def _answers(url: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(url, timeout=5).status_code == 200
    return False


def _end(process: subprocess.Popen[Any]) -> None:
    process.terminate()
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _model(url: str) -> str:
    return str(httpx.get(f"{url}/v1/models", timeout=PATIENCE_S).json()["data"][0]["id"])


def _show(levels: list[Level]) -> None:
    table = Table("server", "clients", "requests", "tokens/s", "ratio to 1 client")
    for column in ("TTFT p50", "TTFT p99", "TPOT p50", "TPOT p99", "E2E p50", "E2E p99"):
        table.add_column(f"{column}, ms", justify="right")
    for one in levels:
        single = next((x for x in levels if (x.server, x.clients) == (one.server, 1)), None)
        ratio = f"{one.tokens_per_s / single.tokens_per_s:.2f}" if single else "–"
        times = [
            f"{1e3 * group[p]:.1f}"
            for group in (one.ttft_s, one.tpot_s, one.e2e_s)
            for p in ("p50", "p99")
        ]
        head = (one.server, str(one.clients), str(one.requests), f"{one.tokens_per_s:.0f}", ratio)
        table.add_row(*head, *times)
    Console(width=160).print(table)


def _plot(levels: list[Level], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    for server in dict.fromkeys(one.server for one in levels):
        own = [one for one in levels if one.server == server]
        clients = [one.clients for one in own]
        left.plot(clients, [one.tokens_per_s for one in own], "o-", label=server)
        for percent, line in (("p50", "o-"), ("p99", "o:")):
            values = [1e3 * one.ttft_s[percent] for one in own]
            right.plot(clients, values, line, label=f"{server}, {percent}")
    left.set(xlabel="clients", ylabel="output tokens/s", xscale="log", ylim=(0, None))
    right.set(xlabel="clients", ylabel="time to first token, ms", xscale="log", yscale="log")
    for axes in (left, right):
        axes.set_xticks(sorted({one.clients for one in levels}))
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=110)


@app.command()
def load(
    clients: Annotated[str, typer.Option(help="Numbers of clients, with commas.")] = "1,8,32,64",
    requests: Annotated[int, typer.Option(min=1, help="Requests of each level.")] = 192,
    pair: Annotated[PairName, typer.Option(help="Whose models.")] = DEMO,
    max_tokens: Annotated[int, typer.Option(min=1)] = 64,
    server: Annotated[
        Server, typer.Option(help="Whose server; both: one after the other.")
    ] = "mtad",
    method: Annotated[str, typer.Option(help="mtad's method.")] = "mtad",
    temperature: float = 1.0,
    ignore_eos: Annotated[
        bool, typer.Option("--ignore-eos", help="mtad's texts all have the most tokens.")
    ] = False,
    output: Annotated[Path | None, typer.Option(help="Folder for rows and plot.")] = None,
    repeats: Annotated[
        int, typer.Option(min=1, help="Rounds over all levels; the best counts.")
    ] = 1,
) -> None:
    """Throughput and latencies by number of clients."""
    counts = [int(word) for word in clients.split(",")]
    target, levels = str(PAIRS[pair].require_target()), []
    for name in ("mtad", "transformers") if server == "both" else (server,):
        with (
            mtad_server("--pair", pair) if name == "mtad" else transformers_server(target) as (
                url,
                _,
            )
        ):
            model, own = target, {}
            if name == "mtad":
                model = _model(url)
                own = {"method": method, "top_k": 10, "top_p": 0.9, "ignore_eos": ignore_eos}
            work = bodies(requests, max_tokens, model, own | {"temperature": temperature}, pair)
            for count in counts:  # by then the iterations are recorded
                asyncio.run(level(url, work[:128], count, f"{name}, warm-up"))
            rounds = [
                [asyncio.run(level(url, work, count, name)) for count in counts]
                for _ in range(repeats)
            ]
        texts = [[answer.text for answer in answers] for one in rounds for _, answers in one]
        if name == "mtad":
            _compare(texts, is_exact=pair == DEMO)
        for same in zip(*rounds, strict=True):
            levels.append(max((figures for figures, _ in same), key=lambda f: f.tokens_per_s))
    _show(levels)
    if output:
        output.mkdir(parents=True, exist_ok=True)
        rows = [json.dumps(asdict(one)) + "\n" for one in levels]
        (output / "load.jsonl").write_text("".join(rows), encoding="utf-8")
        _plot(levels, output / "load.png")


def _compare(texts: list[list[str]], is_exact: bool) -> None:
    """Raise if a text depends on the number of clients; in bfloat16 count those that do."""
    differ = sum(len(set(same)) > 1 for same in zip(*texts, strict=True))
    if differ and is_exact:
        raise RuntimeError("a text depends on the number of clients")
    screen.print(f"{differ} of {len(texts[0])} texts depend on the number of clients by rounding")


def _figures(url: str) -> dict[str, float]:
    text = httpx.get(f"{url}/metrics", timeout=PATIENCE_S).text
    wanted = ("mtad:num_requests_running", "mtad:num_requests_waiting", "mtad:kv_cache_usage_perc")
    return {
        name: float(line.rsplit(" ", 1)[1])
        for name in wanted
        for line in text.splitlines()
        if line.startswith(name)
    }


def _rest(url: str) -> dict[str, float]:
    """The server's figures once nothing runs any more."""
    until = time.monotonic() + PATIENCE_S
    while any((found := _figures(url)).values()) and time.monotonic() < until:
        time.sleep(0.2)
    return found


@app.command()
def soak(
    requests: Annotated[int, typer.Option(min=1)] = 10_000,
    clients: Annotated[int, typer.Option(min=1)] = 32,
    max_tokens: Annotated[int, typer.Option(min=1)] = 4,
    growth_mib: Annotated[
        float,
        typer.Option(
            help="Most memory that the second half may gain; a recorded form takes some 24."
        ),
    ] = 64.0,
) -> None:
    """Many short requests, with schemas and tools among them: memory and slots are free again.

    Iterations of the numbers of rows that are recorded are recorded first, since each takes memory
    that stays; and the first half of the requests does not count.
    """
    with mtad_server() as (url, process):
        plain = bodies(max(1, requests // ROUNDS), max_tokens, _model(url), {"top_k": 10})
        work, held = mixed(plain), []
        for rows in range(1, MOST_RECORDED["cpu"] + 1):
            asyncio.run(level(url, (work * 60)[: 60 * rows], rows, "warm-up"))
        began = time.perf_counter()
        for _ in range(ROUNDS):
            asyncio.run(level(url, work, clients))
            held.append(process.memory_info().rss / 2**20)
        wall, rest = time.perf_counter() - began, _rest(url)
    gained, count = held[-1] - held[ROUNDS // 2 - 1], ROUNDS * len(work)
    print(
        f"{count} requests of {max_tokens} tokens by {clients} clients in {wall:.0f} s "
        f"({count / wall:.0f} requests/s); MiB after each tenth: "
        f"{', '.join(f'{size:.0f}' for size in held)}, {gained:+.1f} in the second half; {rest}"
    )
    if any(rest.values()) or gained > growth_mib:
        raise typer.Exit(1)


@app.command()
def disconnect(
    clients: Annotated[int, typer.Option(min=1)] = 1000,
    at_once: Annotated[int, typer.Option(min=1)] = 50,
    max_tokens: Annotated[int, typer.Option(min=1)] = 400,
) -> None:
    """Clients, some with schemas or tools, that go away in the middle: their slots are free."""

    async def leave(
        client: httpx.AsyncClient, body: dict[str, Any], gate: asyncio.Semaphore
    ) -> int:
        async with gate, client.stream("POST", path_of(body), json=body) as response:
            async for _ in events(response):
                return response.status_code
        return response.status_code

    async def all_leave(url: str, work: list[dict[str, Any]]) -> list[int]:
        gate, pool = asyncio.Semaphore(at_once), httpx.Limits(max_connections=at_once)
        async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_S, limits=pool) as client:
            return await asyncio.gather(*(leave(client, body, gate) for body in work))

    with mtad_server() as (url, _):
        model = _model(url)
        work = mixed(bodies(clients, max_tokens, model, {"ignore_eos": True}))
        _, expected = asyncio.run(level(url, bodies(4, 16, model, {}), 1))
        began = time.perf_counter()
        codes = asyncio.run(all_leave(url, work))
        wall = time.perf_counter() - began
        rest = _rest(url)
        free_s = time.perf_counter() - began - wall
        _, after = asyncio.run(level(url, bodies(4, 16, model, {}), 1))
    same = [a.text for a in after] == [a.text for a in expected]
    print(
        f"{clients} clients left in the middle of {max_tokens} tokens, {at_once} at once, in "
        f"{wall:.0f} s; statuses {sorted(set(codes))}; all slots free {free_s:.2f} s after the last"
        f" one: {rest}; the next texts are {'the same' if same else 'DIFFERENT'}"
    )
    if any(rest.values()) or not same or set(codes) != {200}:
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
