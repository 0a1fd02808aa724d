"""`mtad chat`: a conversation through a pipe, in a terminal, and its commands one by one."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.command import MAIN, MODELS, cli, without_loading
from support.saved_pair import pair

import mtad
from mtad.cli.chat.commands import COMMANDS, Leave, obey
from mtad.cli.chat.conversation import Conversation
from mtad.cli.chat.settings import ChatSettings
from mtad.cli.chat.talk import Talk, judged
from mtad.errors import ContextLengthError

FLAGS = ["--seed", "3", "--max-new-tokens", "6", "--ignore-eos", "--no-guard"]
OPTIONS: dict[str, Any] = {"seed": 3, "max_new_tokens": 6, "ignore_eos": True}


@pytest.fixture
def _loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    without_loading(monkeypatch)


@pytest.fixture
def talk() -> Talk:
    settings = ChatSettings(guard=False, **OPTIONS)
    return Talk(pair(), settings, judged(settings), colour=False)


def chat(*lines: str, flags: list[str] | None = None, **options: Any) -> Any:
    """The result of a chat of these lines."""
    given = FLAGS if flags is None else flags
    return cli("chat", *given, stdin="".join(f"{line}\n" for line in lines), **options)


def said(messages: list[dict[str, str]], method: mtad.Method | str = "mtad", **changes: Any) -> str:
    """What the pair answers to these messages."""
    (out,) = pair().generate([messages], method, guard=False, **(OPTIONS | changes))
    return out.text


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def ask(talk: Talk, question: str) -> str:
    talk.conversation.waiting = question
    talk.answer()
    return str(talk.conversation.messages[-1]["content"])


# --- through a pipe


@pytest.mark.usefixtures("_loaded")
def test_a_pipe_gets_the_answers_and_nothing_else() -> None:
    result = chat("the cat", "", "sat")
    first = said([user("the cat")])
    second = said([user("the cat"), assistant(first), user("sat")])
    assert (result.exit_code, result.stdout) == (0, f"{first}\n{second}\n")
    assert result.stderr.count("mean acceptance length") == 2
    assert "mtad (lossy) · seed 3" in result.stderr
    assert "\x1b" not in result.stdout + result.stderr


@pytest.mark.usefixtures("_loaded")
def test_lines_go_on_after_a_backslash_and_slashes_can_be_plain() -> None:
    system = {"role": "system", "content": "x = x"}
    result = chat("the\\", " cat\\", "//sat", flags=[*FLAGS, "--system", "x = x"])
    assert result.stdout == said([system, user("the\n cat\n//sat")]) + "\n"
    assert chat("//sat").stdout == said([user("/sat")]) + "\n"
    assert chat("the\\").stdout == said([user("the")]) + "\n", "the end of input ends the line"


@pytest.mark.usefixtures("_loaded")
def test_settings_change_on_the_way() -> None:
    result = chat(
        "/method specinfer k_config=2,2", "/temperature 0", "/max-new-tokens 4", "the cat"
    )
    method = mtad.SpecInfer(k_config=(2, 2))
    assert (
        result.stdout == said([user("the cat")], method, temperature=0.0, max_new_tokens=4) + "\n"
    )
    assert "specinfer (lossless)" in result.stderr


@pytest.mark.usefixtures("_loaded")
def test_an_error_keeps_the_conversation_and_is_in_the_exit_code() -> None:
    result = chat("the cat", "/nonsense 1", "/top-k many", "/threshold -7", "/retry")
    text = said([user("the cat")])
    assert (result.exit_code, result.stdout) == (1, f"{text}\n{text}\n")
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 3
    assert "no command /nonsense; there are /method /threshold" in errors[0]
    assert errors[1] == "Error: top_k is 'many'; it must be an integer"
    assert "accept_threshold is -7" in errors[2]


@pytest.mark.usefixtures("_loaded")
def test_nothing_is_read_after_quit() -> None:
    result = chat("/quit", "the cat")
    assert (result.exit_code, result.stdout) == (0, "")


@pytest.mark.usefixtures("_loaded")
def test_bytes_that_are_no_text_are_refused_alone() -> None:
    result = cli("chat", *FLAGS, stdin=b"\xff\nthe cat\n")
    assert (result.exit_code, result.stdout) == (1, said([user("the cat")]) + "\n")
    assert "Error: the line is not UTF-8" in result.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--method", "mtad", "-o", "accept_threshold=-7"], "accept_threshold is -7"),
        (["--target-model", "x"], "mtad needs a draft model"),
        (["--colour"], "--colour needs a terminal"),
        (["--method", "beam_search", "--temperature", "0", "--guard"], "guard is True"),
        (["--prompt-file", "x"], "No such option: --prompt-file"),
        (["--json"], "No such option: --json"),
        (["a prompt"], "unexpected extra argument"),
    ],
)
def test_wrong_flags_are_refused_before_loading(
    flags: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = without_loading(monkeypatch)
    result = chat("the cat", flags=flags)
    text = " ".join(re.sub(r"\x1b\[[\d;]*m|[│╭╮╰╯─]", " ", result.stderr).split())
    assert (result.exit_code, result.stdout, calls) == (2, "", [])
    assert message in text


def test_a_chat_needs_a_template(monkeypatch: pytest.MonkeyPatch) -> None:
    bare = mtad.ModelPair(pair().models.target, None)
    monkeypatch.setattr("mtad.api.pair.load_pair", lambda *_, **__: bare)
    result = chat("the cat")
    assert result.exit_code == 1
    assert "needs a tokenizer with a chat template" in result.stderr


# --- commands


def test_the_method_and_its_threshold(talk: Talk) -> None:
    obey(talk, "/method mtad num_draft_tokens=2 accept_threshold=0.25")
    assert talk.method == mtad.MTAD(num_draft_tokens=2, accept_threshold=0.25)
    told, asks = obey(talk, "/threshold 0.75")
    assert talk.method == mtad.MTAD(num_draft_tokens=2, accept_threshold=0.75)
    assert told.startswith("method mtad (lossy) num_draft_tokens=2 ") and not asks
    assert "k_config=4,2" in obey(talk, "/method specinfer k_config=4,2")[0]
    with pytest.raises(ValueError, match=r"specinfer has no accept_threshold; .*: .*mtad"):
        obey(talk, "/threshold 0.5")
    with pytest.raises(ValueError, match="no option 'beam'; its options: k_config"):
        obey(talk, "/method specinfer beam=1")
    assert talk.method == mtad.SpecInfer(k_config=(4, 2))
    obey(talk, "/method mtad")
    assert talk.method == mtad.MTAD(), "options of an earlier method are gone"


def test_a_threshold_wins_over_the_flags() -> None:
    settings = ChatSettings(accept_threshold="0.9", num_draft_tokens="2")
    one = Talk(pair(), settings, judged(settings), colour=False)
    obey(one, "/threshold 0.1")
    assert one.method == mtad.MTAD(num_draft_tokens=2, accept_threshold=0.1)


def test_the_file_of_a_method_stays_under_the_threshold(tmp_path: Path) -> None:
    file = tmp_path / "method.toml"
    file.write_text('method = "mtad"\n[options]\nbeam_width = 2\n')
    settings = ChatSettings(config=file)
    one = Talk(pair(), settings, judged(settings), colour=False)
    obey(one, "/threshold 0.1")
    assert one.method == mtad.MTAD(beam_width=2, accept_threshold=0.1)


def test_what_does_not_go_together_is_refused(talk: Talk) -> None:
    obey(talk, "/method beam_search")
    before = talk.settings
    with pytest.raises(ValueError, match="beam_search does not honour"):
        obey(talk, "/top-k 5")
    assert talk.settings == before
    alone = mtad.ModelPair(pair().models.target, tokenizer=pair().tokenizer)
    single = Talk(alone, talk.settings, talk.method, colour=False)
    with pytest.raises(ValueError, match="mtad needs a draft model"):
        obey(single, "/method mtad")


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("/temperature 0.5", "temperature", 0.5),
        ("/top-k 4", "top_k", 4),
        ("/top_p 0.5", "top_p", 0.5),
        ("/min-p 0.1", "min_p", 0.1),
        ("/repetition-penalty 2", "repetition_penalty", 2.0),
        ("/frequency-penalty 1", "frequency_penalty", 1.0),
        ("/presence-penalty 1", "presence_penalty", 1.0),
        ("/max-new-tokens 9", "max_new_tokens", 9),
        ("/seed 7", "seed", 7),
        ("/seed random", "seed", None),
    ],
)
def test_sampling_settings(talk: Talk, line: str, name: str, value: Any) -> None:
    obey(talk, line)
    assert getattr(talk.settings, name) == value
    told, _ = obey(talk, line.split()[0])
    assert told.startswith(f"{name} {'random' if value is None else value}")
    assert getattr(talk.settings, name) == value, "to show is not to set"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/temperature warm", "temperature is 'warm'; it must be a number"),
        ("/temperature -1", "temperature is -1"),
        ("/max-new-tokens -1", "max_new_tokens is -1"),
        ("/seed x", "seed is 'x'; it must be an integer"),
        ("/method nonsense", "nonsense"),
        ("/method mtad beam_width", "expected NAME=VALUE"),
        ("/colour blue", "colour is 'blue'; it must be on or off"),
        ("/colour on", "needs a terminal"),
        ("/undo", "nothing was said yet"),
        ("/retry", "nothing was said yet"),
        ("/save", "/save needs the name of a file"),
        ("/load", "/load needs the name of a file"),
        ("/load /nowhere/at/all", "cannot be read: No such file"),
        ("/save /nowhere/at/all", "cannot be written"),
        ("/clear all", "/clear takes nothing after it, and 'all' was given"),
        ("/", "there is no command /; there are"),
    ],
)
def test_wrong_values_change_nothing(talk: Talk, line: str, message: str) -> None:
    settings, method = talk.settings, talk.method
    with pytest.raises(ValueError, match=re.escape(message)):
        obey(talk, line)
    assert (talk.settings, talk.method, talk.colour) == (settings, method, False)


def test_options_and_help_name_everything(talk: Talk) -> None:
    told, _ = obey(talk, "/options")
    for part in ("method mtad (lossy)", "accept_threshold=0.5", "max_new_tokens=6", "seed 3"):
        assert part in told
    shown, _ = obey(talk, "/help")
    assert all(f"/{name} " in shown for name in COMMANDS)
    with pytest.raises(Leave):
        obey(talk, "/quit")


def test_undo_retry_and_clear(talk: Talk) -> None:
    obey(talk, "/system x = x")
    first, second = ask(talk, "the"), ask(talk, "cat")
    assert obey(talk, "/undo")[0] == "taken back: cat"
    assert talk.conversation.messages[1:] == [user("the"), assistant(first)]
    assert ask(talk, "cat") == second, "the text depends on the messages and the seed alone"
    obey(talk, "/seed 4")
    _, asks = obey(talk, "/retry")
    assert asks and talk.conversation.waiting == "cat"
    assert obey(talk, "/history")[0].endswith("user: cat [no answer yet]")
    obey(talk, "/clear")
    assert obey(talk, "/history")[0] == "system: x = x"
    assert "it was: x = x" in obey(talk, "/system")[0]
    assert talk.conversation == Conversation()


def test_figures_of_all_answers(talk: Talk) -> None:
    assert obey(talk, "/stats")[0].startswith("0 answers · 0 tokens")
    ask(talk, "the")
    ask(talk, "cat")
    told, _ = obey(talk, "/stats")
    assert told.startswith("2 answers · 12 tokens · ")
    assert all(part.prefill_s > 0 for part in talk.parts), "the pair's own statistics"
    steps = sum(part.num_spec_steps for part in talk.parts)
    accepted = sum(part.num_accepted_draft_tokens for part in talk.parts)
    assert f"mean acceptance length {1 + accepted / steps:.2f}" in told


# --- files


def test_a_conversation_comes_back_from_its_file(talk: Talk, tmp_path: Path) -> None:
    file = tmp_path / "talk.json"
    ask(talk, "die süße 🙂 cat")
    talk.conversation.waiting = "sat"
    obey(talk, f"/save {file}")
    obey(talk, f"/save {file}")  # its own file may be written again
    before = (talk.conversation.messages, "sat")
    with pytest.raises(ValueError, match="/save this one, then /clear it"):
        obey(talk, f"/load {file}")
    obey(talk, "/clear")
    told, _ = obey(talk, f"/load {file}")
    assert told.startswith("2 messages") and "/retry asks it" in told
    assert (talk.conversation.messages, talk.conversation.waiting) == before
    assert json.loads(file.read_text())[0] == user("die süße 🙂 cat")


def test_another_file_is_not_written_over(talk: Talk, tmp_path: Path) -> None:
    file = tmp_path / "precious"
    file.write_text("mine")
    with pytest.raises(ValueError, match="precious is there already"):
        obey(talk, f"/save {file}")
    assert file.read_text() == "mine"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("7", "holds no messages; expected"),
        ('["x"]', "message 1 needs a role"),
        ('[{"role": "robot", "content": ""}]', "one of system, user, assistant"),
        ('[{"role": "user", "content": 1}]', "a text as its content"),
        ('[{"role": "assistant", "content": "x"}]', "'assistant' where 'user' is expected"),
        (
            '[{"role": "system", "content": ""}, {"role": "system", "content": ""}]',
            "message 2 is of role 'system'",
        ),
    ],
)
def test_files_that_hold_no_conversation(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "talk.json"
    file.write_text(content)
    with pytest.raises(ValueError, match=re.escape(message)):
        Conversation.load(file)


def test_messages_of_other_programs(tmp_path: Path) -> None:
    file = tmp_path / "talk.json"
    file.write_text(json.dumps({"messages": [user("the") | {"name": "me"}, assistant("cat")]}))
    assert Conversation.load(file).messages == [user("the"), assistant("cat")]


# --- Ctrl-C and a full context


def pressing(place: int, times: int = 1) -> Any:
    """The pair's stream, Ctrl-C pressed after so many chunks."""
    stream = pair().stream

    def pressed(*arguments: Any, **options: Any) -> Iterator[mtad.Chunk]:
        for number, chunk in enumerate(stream(*arguments, **options)):
            if number == place:
                for _ in range(times):
                    signal.raise_signal(signal.SIGINT)
            yield chunk

    return pressed


@pytest.mark.parametrize("times", [1, 2])
def test_a_stopped_answer_is_kept_as_far_as_it_came(
    talk: Talk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], times: int
) -> None:
    talk.change(max_new_tokens=60)
    whole = said([user("the cat")], max_new_tokens=60)
    monkeypatch.setattr(talk.pair, "stream", pressing(2, times))
    handler = signal.getsignal(signal.SIGINT)
    text = ask(talk, "the cat")
    assert 0 < len(text) < len(whole) and whole.startswith(text)
    out, err = capsys.readouterr()
    assert out.rstrip("\n") == text.rstrip("\n")
    assert "[answer stopped; it is kept as far as it came; /retry asks again]" in err
    assert signal.getsignal(signal.SIGINT) is handler
    assert obey(talk, "/history")[0].endswith("[stopped]")
    assert talk.parts[-1].num_output_tokens < 60
    assert [set(message) for message in talk.conversation.prompt] == [{"role", "content"}] * 3


def test_an_answer_stopped_at_once_leaves_the_question(
    talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(talk.pair, "stream", pressing(0, times=2))
    talk.conversation.waiting = "the cat"
    assert not talk.answer()
    assert (talk.conversation.messages, talk.conversation.waiting) == ([], "the cat")
    assert talk.parts == []


@pytest.mark.usefixtures("_loaded")
def test_a_retry_of_which_nothing_comes_keeps_the_old_answer() -> None:
    result = chat("the cat", "/max-new-tokens 5000", "/retry", "/history")
    text = said([user("the cat")])
    assert (result.exit_code, result.stdout) == (1, f"{text}\n")
    assert f"user: the cat\nassistant: {text}" in result.stderr


def test_a_full_context_loses_nothing(talk: Talk) -> None:
    first, second = ask(talk, "the"), ask(talk, "cat")
    talk.change(max_new_tokens=1000)
    talk.conversation.waiting = "sat"
    with pytest.raises(ContextLengthError, match=r"/undo takes it back, .*/clear .*/retry"):
        talk.answer()
    assert [m["content"] for m in talk.conversation.messages] == ["the", first, "cat", second]
    obey(talk, "/max-new-tokens 6")
    _, asks = obey(talk, "/retry")
    assert asks and talk.answer()
    assert talk.conversation.messages[-2] == user("sat")


# --- in a terminal


class Terminal:
    """`mtad chat` in a pseudo-terminal."""

    def __init__(self, *flags: str, **environment: str) -> None:
        self.master, slave = pty.openpty()
        env = os.environ | {"TERM": "xterm", "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [*MAIN, "chat", *MODELS, *flags],
            env=env | environment,
            preexec_fn=lambda: self._sit_down(slave),
        )
        os.close(slave)
        self.output = ""

    @staticmethod
    def _sit_down(slave: int) -> None:
        """Have a terminal of one's own, and let Ctrl-C interrupt, which `... &` takes away."""
        os.login_tty(slave)
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def wait_for(self, pattern: str, count: int = 1) -> None:
        """Read until the pattern was shown so many times."""
        end = time.monotonic() + 60
        while len(re.findall(pattern, self.output)) < count:
            assert time.monotonic() < end, f"no {pattern!r} in {self.output!r}"
            self._read(0.2)

    def interrupt(self) -> None:
        """Press Ctrl-C until there is a new prompt.

        While it deals with a key, Python's readline notes the signal and looks at it with the next.
        """
        end, prompts = time.monotonic() + 60, self.output.count("> ")
        while self.output.count("> ") == prompts:
            assert time.monotonic() < end, f"no new prompt in {self.output!r}"
            self.type("\x03")
            while self._read(1.0):
                pass  # until it waits for a key

    def _read(self, seconds: float) -> bool:
        """Add what is shown within some seconds; whether there was anything."""
        ready = bool(select.select([self.master], [], [], seconds)[0])
        if ready:
            self.output += os.read(self.master, 65536).decode(errors="replace")
        return ready

    @property
    def text(self) -> str:
        """What was shown, without the codes."""
        return re.sub(r"\x1b\[[\d;?]*[A-Za-z]|\r", "", self.output)


def test_a_terminal_has_colours_figures_and_line_editing(tmp_path: Path) -> None:
    flags = ["--seed", "3", "--max-new-tokens", "12", "--ignore-eos", "--keep-lines"]
    with Terminal(*flags, XDG_STATE_HOME=str(tmp_path)) as terminal:
        terminal.wait_for("> ")
        terminal.type("the dog\x7f\x7f\x7fcat\n")  # the dog is deleted, as typed lines are edited
        terminal.wait_for(r"· seed 3")
        assert "\x1b[4;33m" in terminal.output, "an endpoint token is underlined and yellow"
        assert "accepted draft token · endpoint token" in terminal.text
        assert terminal.text.count("mean acceptance length (block efficiency)") == 1
        terminal.type("/history\n")
        terminal.wait_for("user: the cat")
        terminal.type("half a line")
        terminal.wait_for("half a line")
        terminal.interrupt()
        prompts = terminal.output.count("> ")
        terminal.type("/colour off\n")
        terminal.wait_for("> ", prompts + 1)
        terminal.type("\x04")
        assert terminal.process.wait(60) == 0
    (kept,) = tmp_path.rglob("chat_lines")
    assert kept.read_text().splitlines()[:2] == ["the cat", "/history"]
    assert kept.stat().st_mode & 0o777 == 0o600


def test_lines_are_kept_only_if_asked(tmp_path: Path) -> None:
    with Terminal(XDG_STATE_HOME=str(tmp_path)) as terminal:
        terminal.wait_for("> ")
        terminal.type("/quit\n")
        assert terminal.process.wait(60) == 0
    assert list(tmp_path.iterdir()) == []
