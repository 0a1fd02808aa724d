"""The judges: word comparison, and a model behind an endpoint that may misbehave in any way."""

import asyncio
import builtins
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from mtad.errors import JudgeError
from mtad.tasks.endpoint_judge import EndpointJudge
from mtad.tasks.judge import ReferenceJudge, Turn
from mtad.tasks.rating import Rating, find_rating

QUESTION = ("How many pieces are 7 dozens?", "And {8} dozens?")
ANSWERS = ("They are 84, of course.", "That makes 97 {pieces}.")
REFERENCE = ("7 dozens are 84 pieces.", "8 dozens are 96 pieces.")
TURN = Turn(QUESTION, ANSWERS, 1)
KEY = "secret-of-the-test"


@dataclass(frozen=True)
class Reply:
    """What the server sends: a status, a body, and after how long."""

    status: int
    body: str
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0


def says(text: str | None) -> Reply:
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    body = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
    return Reply(200, json.dumps(body))


def fails(status: int, **headers: str) -> Reply:
    return Reply(status, json.dumps({"error": {"message": f"status {status} it is"}}), headers)


class Server:
    """An endpoint that sends the given replies in order, the last one for ever."""

    def __init__(self, replies: Sequence[Reply]) -> None:
        self.replies = list(replies)
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.paths: list[str] = []
        self.lock = threading.Lock()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with server.lock:
                    server.requests.append(body)
                    server.keys.append(self.headers["Authorization"])
                    server.paths.append(self.path)
                    reply = server.replies[min(len(server.requests), len(server.replies)) - 1]
                time.sleep(reply.delay_s)
                if isinstance(reply, Drip):
                    self._drip(reply)
                else:
                    self._send(reply)

            def _drip(self, reply: "Drip") -> None:
                self.close_connection = True
                for piece in reply.pieces:
                    try:
                        self.wfile.write(piece)
                    except OSError:
                        return
                    time.sleep(0.1)

            def _send(self, reply: Reply) -> None:
                try:
                    self.send_response(reply.status)
                    headers = {"Content-Type": "application/json"} | reply.headers
                    for name, value in headers.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(reply.body.encode())
                except OSError:
                    pass  # the client has given up, which is what some tests are about

            def log_message(self, *_: object) -> None:
                pass

        return Handler

    @property
    def prompts(self) -> list[str]:
        return [request["messages"][-1]["content"] for request in self.requests]


Serve = Callable[..., Server]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    started: list[Server] = []

    def start(*replies: Reply) -> Server:
        server = Server(replies)
        threading.Thread(target=server.http.serve_forever, args=(0.01,), daemon=True).start()
        started.append(server)
        return server

    yield start
    for server in started:
        server.http.shutdown()
        server.http.server_close()


def judge(server: Server, **options: Any) -> EndpointJudge:
    return EndpointJudge("grader", server.url, **options)


@pytest.mark.parametrize(
    ("judgment", "rating"),
    [
        ("Fine. Rating: [[7]]", 7.0),
        ("[[7.5]]", 7.5),
        ("[[7.]]", 7.0),
        ("[[1]]", 1.0),
        ("[[10]]", 10.0),
        ("**Rating: [[9]]**", 9.0),
        ("First I thought [[3]]. Rating: [[8]]", 3.0),
        ("The answer says [[10]], which is vain. Rating: [[2]]", 10.0),
        ("It prints [3] and [4]. Rating: [[8]]", 8.0),
        ("Not [[seven]] but [[7]]", 7.0),
        ("[[[6]]]", 6.0),
        ("Rating: [[8/10]], that is [[8]]", 8.0),
        ("<think>[[2]]? No, more.</think>\nGood. Rating: [[7]]", 7.0),
    ],
)
def test_first_number_in_double_brackets_is_the_rating(judgment: str, rating: float) -> None:
    assert find_rating(judgment) == Rating(rating)


@pytest.mark.parametrize(
    ("judgment", "rating"),
    [
        ("only one bracket: [7]", 7.0),
        ("In step [3] it fails.", 3.0),
        ("Rating: [ [7] ]", 7.0),
        ("See [2.5] and [4]. Rating: [[ten]]", 2.5),
    ],
)
def test_rating_in_single_brackets_is_marked(judgment: str, rating: float) -> None:
    assert find_rating(judgment) == Rating(rating, in_single_brackets=True)


@pytest.mark.parametrize(
    "judgment",
    [
        "Rating: [[11]]",
        "Rating: [[0]]",
        "Rating: [[0.5]]",
        "Rating: [[10.01]]",
        "Rating: [[100]], or rather [[7]]",
        "See [5]. Rating: [[11]]",
        "As [12] says, [5].",
        "[[ 7 ]]",
        "[ 7 ]",
        "Rating: 7",
        "Rating: [[-7]]",
        "Rating: [[seven]]",
        "Rating: [[\uff17]]",
        "Rating: [[8/10]]",
        "Rating: [[1e1]]",
        "",
    ],
)
def test_other_judgments_have_no_rating(judgment: str) -> None:
    assert find_rating(judgment) is None


def test_good_judgment_is_asked_for_once(serve: Serve) -> None:
    server = serve(says("Right but for one number. Rating: [[6]]"))
    grade = judge(server).grade(TURN)
    assert (grade.rating, grade.problem, grade.in_single_brackets) == (6.0, "", False)
    assert grade.judgment == "Right but for one number. Rating: [[6]]"
    assert len(server.requests) == 1


def test_rating_in_single_brackets_counts_and_says_so(serve: Serve) -> None:
    server = serve(says("In step [3] it fails."))
    grade = judge(server).grade(TURN)
    assert (grade.rating, grade.in_single_brackets) == (3.0, True)
    assert len(server.requests) == 1


def test_request_names_the_model_and_is_deterministic(serve: Serve) -> None:
    server = serve(says("[[5]]"))
    judge(server).grade(TURN)
    request = server.requests[0]
    assert request["model"] == "grader"
    assert request["temperature"] == 0
    assert [message["role"] for message in request["messages"]] == ["system", "user"]
    assert server.paths == ["/v1/chat/completions"]
    assert server.keys == [f"Bearer {KEY}"]


@pytest.mark.parametrize("reference", [None, REFERENCE])
@pytest.mark.parametrize("turn", [1, 2])
def test_prompt_shows_what_the_turn_needs(
    serve: Serve, turn: int, reference: tuple[str, ...] | None
) -> None:
    server = serve(says("[[5]]"))
    judge(server).grade(Turn(QUESTION, ANSWERS, turn, reference))
    prompt = server.prompts[0]
    for n, texts in enumerate(zip(QUESTION, ANSWERS, strict=True), 1):
        assert all((text in prompt) == (n <= turn) for text in texts)
        assert (REFERENCE[n - 1] in prompt) == (reference is not None and n <= turn)
    assert "[[5]]" in prompt, "the form of the rating must be shown"
    assert ("last answer" in prompt) == (turn == 2)


def test_forms_have_four_names_and_texts() -> None:
    grader = EndpointJudge("grader")
    asked = [grader.ask(Turn(QUESTION, ANSWERS, n, r)) for n in (1, 2) for r in (None, REFERENCE)]
    assert len({one.form for one in asked}) == len({one.user_prompt for one in asked}) == 4


@pytest.mark.parametrize("nonsense", ["What a lovely answer!", "Rating: [[11]]", "", None])
def test_judgment_without_a_rating_is_no_rating(serve: Serve, nonsense: str | None) -> None:
    server = serve(says(nonsense))
    grade = judge(server).grade(TURN)
    assert grade.rating is None
    assert "no rating" in grade.problem
    assert grade.judgment == (nonsense or "")
    assert len(server.requests) == 2, "asked once more, and no more often"


def test_second_try_counts(serve: Serve) -> None:
    server = serve(says("Hm."), says("Rating: [[4]]"))
    grade = judge(server).grade(TURN)
    assert (grade.rating, grade.judgment, grade.problem) == (4.0, "Rating: [[4]]", "")
    assert server.prompts[0] == server.prompts[1]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_passing_trouble_is_waited_out(serve: Serve, status: int) -> None:
    server = serve(fails(status, **{"retry-after-ms": "10"}), says("[[9]]"))
    assert judge(server).grade(TURN).rating == 9.0
    assert len(server.requests) == 2


def test_rate_limit_says_how_long_to_wait(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    server, waits = serve(fails(429, **{"Retry-After": "1.2"}), says("[[9]]")), list[float]()

    async def wait(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr("openai._base_client.anyio.sleep", wait)
    assert judge(server).grade(TURN).rating == 9.0
    assert [*filter(None, waits)] == [1.2], "the server of this test sleeps for 0 s"


@pytest.mark.slow
def test_slow_answer_is_asked_for_again(serve: Serve) -> None:
    server = serve(Reply(200, "{}", delay_s=1.0), says("[[8]]"))
    grade = judge(server, timeout_s=0.3).grade(TURN)
    assert grade.rating == 8.0


@pytest.mark.slow
def test_silence_is_an_error_in_the_end(serve: Serve) -> None:
    server = serve(Reply(200, "{}", delay_s=1.0))
    with pytest.raises(JudgeError, match=r"did not answer in 2 tries of up to 0\.3 s"):
        judge(server, timeout_s=0.3, max_retries=1).grade(TURN)
    assert len(server.requests) == 2


@dataclass(frozen=True)
class Drip(Reply):
    """A reply that is sent piece by piece, each within the limit and all of it far beyond."""

    pieces: tuple[bytes, ...] = ()

    @classmethod
    def of(cls, *pieces: bytes) -> "Drip":
        return cls(200, "", pieces=pieces)


_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    "reply",
    [
        Drip.of(_HEAD + b"Content-Length: 60\r\n\r\n", *[b" "] * 60),
        Drip.of(*(bytes([byte]) for byte in _HEAD)),
        Drip.of(_HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *[b"1\r\n \r\n"] * 60),
        Drip.of(_HEAD, *[b"X-Wait: yes\r\n"] * 60),
        Drip.of(*[b"HTTP/1.1 100 Continue\r\n\r\n"] * 60),
    ],
    ids=["body", "status line", "chunks", "headers", "interim responses"],
)
def test_limit_holds_for_the_whole_answer_and_not_for_each_read(serve: Serve, reply: Drip) -> None:
    server = serve(reply)
    judge(server).check()  # imports openai, which may take seconds
    begin = time.monotonic()
    with pytest.raises(JudgeError, match=r"did not answer in 2 tries of up to 0\.4 s"):
        judge(server, timeout_s=0.4, max_retries=1).grade(TURN)
    assert time.monotonic() - begin < 6.0, "each of these two replies takes 6 s and more"
    assert len(server.requests) == 2


def test_whole_answer_within_the_limit_may_come_slowly(serve: Serve) -> None:
    body = says("Rating: [[8]]").body.encode()
    head = _HEAD + f"Content-Length: {len(body)}\r\n\r\n".encode()
    server = serve(Drip.of(head, body[:9], body[9:]))
    assert judge(server, timeout_s=20.0).grade(TURN).rating == 8.0
    assert len(server.requests) == 1


def test_judge_can_be_asked_inside_an_event_loop(serve: Serve) -> None:
    server = serve(says("[[8]]"))

    async def grade() -> float | None:
        return judge(server).grade(TURN).rating

    assert asyncio.run(grade()) == 8.0


def test_unreachable_endpoint_is_an_error(serve: Serve) -> None:
    server = serve(says("[[8]]"))
    server.http.shutdown()
    server.http.server_close()
    with pytest.raises(JudgeError, match=r"did not answer in 1 tries .*judge_base_url"):
        judge(server, max_retries=0).grade(TURN)


def test_lasting_trouble_is_an_error(serve: Serve) -> None:
    server = serve(fails(500, **{"retry-after-ms": "1"}))
    with pytest.raises(JudgeError, match=r"status 500 \(up to 4 tries\).*status 500 it is"):
        judge(server, max_retries=3).grade(TURN)
    assert len(server.requests) == 4


@pytest.mark.parametrize("name", ["temperature", "max_tokens"])
def test_refused_parameter_is_named(serve: Serve, name: str) -> None:
    message = f"Unsupported parameter: '{name}' is not supported with this model." + " x" * 200
    server = serve(Reply(400, json.dumps({"error": {"message": message, "param": name}})))
    wanted = rf"refuses the setting of {name}: .*Unsupported parameter.*name another one"
    with pytest.raises(JudgeError, match=wanted) as raised:
        judge(server).grade(TURN)
    assert "check" not in str(raised.value), "neither the key nor the address is wrong"
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [400, 401, 404])
def test_refusal_is_an_error_at_once(serve: Serve, status: int) -> None:
    server = serve(fails(status))
    with pytest.raises(JudgeError, match=f"status {status}: .*OPENAI_API_KEY") as raised:
        judge(server).grade(TURN)
    assert len(server.requests) == 1
    assert f"status {status} it is" in str(raised.value)
    assert KEY not in str(raised.value)


@pytest.mark.parametrize(
    "reply",
    [
        Reply(200, '{"id": "1", "choices": [{"ind'),
        Reply(200, "{}"),
        Reply(200, '{"choices": []}'),
        Reply(200, "[1, 2]"),
        Reply(200, "<html>Hello</html>", {"Content-Type": "text/html"}),
    ],
    ids=["cut off", "empty", "no choices", "a list", "a web page"],
)
def test_answer_that_is_no_completion_is_an_error(serve: Serve, reply: Reply) -> None:
    with pytest.raises(JudgeError, match=r"did not answer with a chat completion.*/v1"):
        judge(serve(reply)).grade(TURN)


def test_missing_key_is_an_error(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(JudgeError, match="OPENAI_API_KEY is not set"):
        EndpointJudge("grader").check()
    with pytest.raises(JudgeError, match="MY_KEY is not set"):
        judge(serve(says("[[8]]")), api_key_env="MY_KEY").check()


def test_own_server_needs_no_key(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    server = serve(says("[[8]]"))
    assert judge(server).grade(TURN).rating == 8.0
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    assert EndpointJudge("grader").grade(TURN).rating == 8.0


def test_key_comes_from_the_named_variable(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "another")
    server = serve(says("[[8]]"))
    judge(server, api_key_env="MY_KEY").grade(TURN)
    assert server.keys == ["Bearer another"]


def test_missing_package_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = builtins.__import__

    def without_openai(name: str, *rest: Any) -> Any:
        if name == "openai":
            raise ImportError(name)
        return whole(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_openai)
    with pytest.raises(JudgeError, match="pip install openai"):
        EndpointJudge("grader", "http://127.0.0.1:9/v1").check()


def test_several_threads_share_a_judge(serve: Serve) -> None:
    server = serve(says("[[3]]"))
    grader = judge(server)
    found: list[float | None] = []

    def work() -> None:
        found.append(grader.grade(Turn(QUESTION, ANSWERS, 2, REFERENCE)).rating)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [3.0] * 6
    assert len(server.requests) == 6


@pytest.mark.parametrize(
    ("answer", "rating"),
    [
        ("8 dozens are 96 pieces.", 10.0),
        ("  8 Dozens  are\n96 PIECES ", 10.0),
        ('"8 dozens are 96 pieces"!', 10.0),
        ("8 dozens are 97 pieces.", 1.0),
        ("8 dozens are -96 pieces.", 1.0),
        ("8 dozens, are 96 pieces.", 1.0),
        ("8 dozens are 96 pieces. 8 dozens are 96 pieces.", 1.0),
        ("", 1.0),
        (REFERENCE[0], 1.0),
    ],
)
def test_reference_judge_wants_the_words_of_its_turn(answer: str, rating: float) -> None:
    grade = ReferenceJudge().grade(Turn(QUESTION, ("nothing", answer), 2, REFERENCE))
    assert (grade.rating, grade.problem) == (rating, "")


def test_reference_judge_needs_references() -> None:
    with pytest.raises(JudgeError, match="needs reference answers"):
        ReferenceJudge().grade(TURN)


def test_reference_judge_keeps_signs() -> None:
    assert ReferenceJudge().grade(Turn(("?",), ("-5",), 1, ("5",))).rating == 1.0
