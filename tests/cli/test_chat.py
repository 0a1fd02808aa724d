"""`mtad chat`: a conversation through a pipe, in a terminal, and its commands one by one."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput
from support.command import MAIN, MODELS, cli, without_loading
from support.saved_pair import pair

import mtad
from mtad.cli.chat import lines
from mtad.cli.chat.commands import COMMANDS, Quit, run_command
from mtad.cli.chat.conversation import Conversation
from mtad.cli.chat.session import ChatSession
from mtad.cli.chat.settings import ChatSettings
from mtad.cli.start import checked_method
from mtad.errors import ContextLengthError

FLAGS = ["--seed", "3", "--max-new-tokens", "6", "--ignore-eos", "--no-guard"]
OPTIONS: dict[str, Any] = {"seed": 3, "max_new_tokens": 6, "ignore_eos": True}


@pytest.fixture
def _loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    without_loading(monkeypatch)


@pytest.fixture
def session() -> ChatSession:
    settings = ChatSettings(guard=False, **OPTIONS)
    return ChatSession(pair(), settings, checked_method(settings), colour=False)


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


def ask(session: ChatSession, question: str) -> str:
    session.conversation.ask(question)
    session.answer()
    return str(session.conversation.messages[-1]["content"])


# --- through a pipe


@pytest.mark.usefixtures("_loaded")
def test_a_pipe_gets_the_answers_and_nothing_else() -> None:
    result = chat("the cat", "", "sat")
    first = said([user("the cat")])
    second = said([user("the cat"), assistant(first), user("sat")])
    assert (result.exit_code, result.stdout) == (0, f"{first}\n{second}\n")
    assert result.stderr.count("mean acceptance length") == 2
    assert re.search(r"mtad \(lossy\) · largest overshoot [\d.]+ · seed 3", result.stderr)
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
    assert "Error: the line is not UTF-8: byte 0 is 0xFF; give it as UTF-8" in result.stderr


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


def test_the_method_and_its_threshold(session: ChatSession) -> None:
    run_command(session, "/method mtad num_draft_tokens=2 accept_threshold=0.25")
    assert session.method == mtad.MTAD(num_draft_tokens=2, accept_threshold=0.25)
    message = run_command(session, "/threshold 0.75")
    assert session.method == mtad.MTAD(num_draft_tokens=2, accept_threshold=0.75)
    assert message.startswith("method mtad (lossy) num_draft_tokens=2 ")
    assert "k_config=4,2" in run_command(session, "/method specinfer k_config=4,2")
    with pytest.raises(ValueError, match=r"specinfer has no accept_threshold; .*: .*mtad"):
        run_command(session, "/threshold 0.5")
    with pytest.raises(ValueError, match="no option 'beam'; its options: k_config"):
        run_command(session, "/method specinfer beam=1")
    assert session.method == mtad.SpecInfer(k_config=(4, 2))
    assert run_command(session, "/method speculative_sampling").endswith(" accept_threshold=none")
    run_command(session, "/method mtad")
    assert session.method == mtad.MTAD(), "options of an earlier method are gone"


def test_a_threshold_wins_over_the_flags() -> None:
    settings = ChatSettings(accept_threshold="0.9", num_draft_tokens="2")
    one = ChatSession(pair(), settings, checked_method(settings), colour=False)
    run_command(one, "/threshold 0.1")
    assert one.method == mtad.MTAD(num_draft_tokens=2, accept_threshold=0.1)


def test_the_file_of_a_method_stays_under_the_threshold(tmp_path: Path) -> None:
    file = tmp_path / "method.toml"
    file.write_text('method = "mtad"\n[options]\nbeam_width = 2\n')
    settings = ChatSettings(config=file)
    one = ChatSession(pair(), settings, checked_method(settings), colour=False)
    run_command(one, "/threshold 0.1")
    assert one.method == mtad.MTAD(beam_width=2, accept_threshold=0.1)


def test_what_does_not_go_together_is_refused(session: ChatSession) -> None:
    run_command(session, "/method beam_search")
    before = session.settings
    with pytest.raises(ValueError, match="beam_search does not honour"):
        run_command(session, "/top-k 5")
    assert session.settings == before
    alone = mtad.ModelPair(pair().models.target, tokenizer=pair().tokenizer)
    settings = ChatSettings(target_model="x", method="autoregressive")
    single = ChatSession(alone, settings, checked_method(settings), colour=False)
    with pytest.raises(ValueError, match="mtad needs a draft model"):
        run_command(single, "/method mtad")


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
def test_sampling_settings(session: ChatSession, line: str, name: str, value: Any) -> None:
    run_command(session, line)
    assert getattr(session.settings, name) == value
    message = run_command(session, line.split()[0])
    assert message.startswith(f"{name} {'random' if value is None else value}")
    assert getattr(session.settings, name) == value, "to show is not to set"


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
        ("/methd mtad", "there is no command /methd (did you mean 'method'?); there are"),
        ("/Temprature 1", "there is no command /Temprature (did you mean 'temperature'?)"),
        ("/method mtda", "there is no method 'mtda' (did you mean 'mtad'?)"),
    ],
)
def test_wrong_values_change_nothing(session: ChatSession, line: str, message: str) -> None:
    settings, method = session.settings, session.method
    with pytest.raises(ValueError, match=re.escape(message)):
        run_command(session, line)
    assert (session.settings, session.method, session.colour) == (settings, method, False)


def test_options_and_help_name_everything(session: ChatSession) -> None:
    message = run_command(session, "/options")
    for part in ("method mtad (lossy)", "accept_threshold=0.5", "max_new_tokens=6", "seed 3"):
        assert part in message
    shown = run_command(session, "/help")
    assert all(f"/{name} " in shown for name in COMMANDS)
    with pytest.raises(Quit):
        run_command(session, "/quit")


def test_undo_retry_and_clear(session: ChatSession) -> None:
    run_command(session, "/system x = x")
    first, second = ask(session, "the"), ask(session, "cat")
    assert run_command(session, "/undo") == "taken back: cat"
    assert session.conversation.messages[1:] == [user("the"), assistant(first)]
    assert ask(session, "cat") == second, "the text depends on the messages and the seed alone"
    run_command(session, "/seed 4")
    before = session.conversation.prompt[:-1]
    assert run_command(session, "/retry") == ""
    assert session.conversation.messages == [*before, assistant(said(before, seed=4))]
    session.conversation.ask("sat")
    assert run_command(session, "/history").endswith("user: sat [no answer yet]")
    session.conversation.ask("mat")
    assert run_command(session, "/history").count("[no answer yet]") == 1
    run_command(session, "/clear")
    assert run_command(session, "/history") == "system: x = x"
    assert "it was: x = x" in run_command(session, "/system")
    assert session.conversation == Conversation()


def test_statistics_of_all_answers(session: ChatSession) -> None:
    assert run_command(session, "/stats").startswith("0 answers · 0 tokens")
    ask(session, "the")
    ask(session, "cat")
    message = run_command(session, "/stats")
    assert message.startswith("2 answers · 12 tokens · ")
    assert all(part.prefill_s > 0 for part in session.stats), "the pair's own statistics"
    steps = sum(part.num_spec_steps for part in session.stats)
    accepted = sum(part.num_accepted_draft_tokens for part in session.stats)
    assert f"mean acceptance length {1 + accepted / steps:.2f}" in message


# --- files


def test_a_conversation_comes_back_from_its_file(session: ChatSession, tmp_path: Path) -> None:
    file = tmp_path / "talk.json"
    ask(session, "die süße 🙂 cat")
    session.conversation.ask("sat")
    run_command(session, f"/save {file}")
    run_command(session, f"/save {file}")  # its own file may be written again
    before = [*session.conversation.messages]
    with pytest.raises(ValueError, match="/save this one, then /clear it"):
        run_command(session, f"/load {file}")
    run_command(session, "/clear")
    message = run_command(session, f"/load {file}")
    assert message.startswith("2 messages") and "/retry asks it" in message
    assert (session.conversation.messages, session.conversation.waiting) == (before, "sat")
    assert json.loads(file.read_text())[0] == user("die süße 🙂 cat")


def test_another_file_is_not_written_over(session: ChatSession, tmp_path: Path) -> None:
    file = tmp_path / "precious"
    file.write_text("mine")
    with pytest.raises(ValueError, match="precious is there already"):
        run_command(session, f"/save {file}")
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
    session: ChatSession,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    times: int,
) -> None:
    session.change(max_new_tokens=60)
    whole = said([user("the cat")], max_new_tokens=60)
    monkeypatch.setattr(session.pair, "stream", pressing(2, times))
    handler = signal.getsignal(signal.SIGINT)
    text = ask(session, "the cat")
    assert 0 < len(text) < len(whole) and whole.startswith(text)
    out, err = capsys.readouterr()
    assert out.rstrip("\n") == text.rstrip("\n")
    assert "[answer stopped; it is kept as far as it came; /retry asks again]" in err
    assert signal.getsignal(signal.SIGINT) is handler
    assert run_command(session, "/history").endswith("[stopped]")
    assert session.stats[-1].num_output_tokens < 60
    assert [set(message) for message in session.conversation.prompt] == [{"role", "content"}] * 2


def test_an_answer_stopped_at_once_leaves_the_question(
    session: ChatSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session.pair, "stream", pressing(0, times=2))
    session.conversation.ask("the cat")
    session.answer()
    assert session.conversation.messages == [user("the cat")]
    assert session.conversation.waiting == "the cat"
    assert session.stats == []


@pytest.mark.usefixtures("_loaded")
def test_a_retry_of_which_nothing_comes_keeps_the_old_answer() -> None:
    result = chat("the cat", "/max-new-tokens 5000", "/retry", "/history")
    text = said([user("the cat")])
    assert (result.exit_code, result.stdout) == (1, f"{text}\n")
    assert f"user: the cat\nassistant: {text}" in result.stderr


def test_a_full_context_loses_nothing(session: ChatSession) -> None:
    first, second = ask(session, "the"), ask(session, "cat")
    session.change(max_new_tokens=1000)
    session.conversation.ask("sat")
    with pytest.raises(ContextLengthError, match=r"/undo takes it back, .*/clear .*/retry"):
        session.answer()
    contents = [m["content"] for m in session.conversation.messages]
    assert contents == ["the", first, "cat", second, "sat"]
    run_command(session, "/max-new-tokens 6")
    run_command(session, "/retry")
    assert session.conversation.messages[-2] == user("sat")


# --- in a terminal


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., list[str]]:
    """The lines that keys make, with the state folder in the test's own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr("prompt_toolkit.output.create_output", lambda **_: DummyOutput())

    def typed(text: str, keep: bool = False) -> list[str]:
        with create_pipe_input() as keys, create_app_session(input=keys):
            keys.send_text(text)
            return [*lines.joined(lines.typed_lines(keep))]

    return typed


CTRL_C, CTRL_D, BACKSPACE = "\x03", "\x04", "\x7f"
BRACKETED_PASTE = "\x1b[?2004h"
"""What a prompt writes once it reads keys."""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"the dog{BACKSPACE * 3}cat\r{CTRL_D}", ["the cat"]),
        (f"the\\\r cat\\\r\rsat\r{CTRL_D}", ["the\n cat\n", "sat"]),
        (f"half{CTRL_C}whole\r{CTRL_D}", ["whole"]),
        (f"one\\\r{CTRL_C}two\r{CTRL_D}", ["two"]),
        (f"one\\\r{CTRL_D}", ["one"]),
        (f"\x1b[200~pasted\nlines\x1b[201~\r{CTRL_D}", ["pasted\nlines"]),
        (CTRL_D, []),
    ],
)
def test_keys(keys: Callable[..., list[str]], text: str, expected: list[str]) -> None:
    assert keys(text) == expected


def test_lines_are_kept_only_if_asked(keys: Callable[..., list[str]], tmp_path: Path) -> None:
    keys(f"secret\r{CTRL_D}")
    assert list(tmp_path.iterdir()) == []
    keys(f"the cat\r/history\r{CTRL_D}", keep=True)
    (kept,) = tmp_path.rglob("chat_lines")
    assert kept.stat().st_mode & 0o777 == 0o600
    assert keys(f"the\\\rdog\r{CTRL_D}", keep=True) == ["the\ndog"]
    newest_first = [*lines.kept_history().load_history_strings()]
    assert newest_first == ["dog", "the\\", "/history", "the cat"]


class Terminal:
    """`mtad chat` in a pseudo-terminal."""

    def __init__(self, *flags: str) -> None:
        self.master, slave = pty.openpty()
        env = os.environ | {"TERM": "xterm", "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [*MAIN, "chat", *MODELS, *flags],
            # nothing here answers a request for the cursor's position
            env=env | {"PROMPT_TOOLKIT_NO_CPR": "1"},
            preexec_fn=lambda: self._sit_down(slave),
        )
        os.close(slave)
        self.output, self.num_prompts = "", 0

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

    def wait_for(self, pattern: str) -> None:
        """Read until the pattern is shown."""
        while not re.search(pattern, self.text):
            self._read(pattern)

    def wait_for_prompt(self) -> None:
        """Read until keys go to the next prompt: earlier ones would go to the terminal itself."""
        self.num_prompts += 1
        while self.output.count(BRACKETED_PASTE) < self.num_prompts:
            self._read("prompt")

    def _read(self, wanted: str) -> None:
        ready, _, _ = select.select([self.master], [], [], 60)
        assert ready, f"no {wanted!r} in {self.output!r}"
        self.output += os.read(self.master, 65536).decode(errors="replace")

    @property
    def text(self) -> str:
        """What was shown, without the codes."""
        return re.sub(r"\x1b\[[\d;?]*[A-Za-z]|\r", "", self.output)


@pytest.mark.slow
def test_a_terminal_has_colours_statistics_and_line_editing() -> None:
    flags = ["--seed", "3", "--max-new-tokens", "12", "--ignore-eos"]
    with Terminal(*flags) as terminal:
        terminal.wait_for(r"quits\s*>")
        terminal.wait_for_prompt()
        terminal.type(f"the dog{BACKSPACE * 3}cat\r")
        terminal.wait_for(r"· seed 3")
        terminal.wait_for_prompt()
        assert "\x1b[4;33m" in terminal.output, "an endpoint token is underlined and yellow"
        assert "accepted draft token · endpoint token" in terminal.text
        assert terminal.text.count("mean acceptance length (block efficiency)") == 1
        terminal.type("half a line")
        terminal.wait_for("half a line")
        terminal.type(CTRL_C)
        terminal.wait_for_prompt()
        terminal.type("/history\r")
        terminal.wait_for("user: the cat")
        terminal.wait_for_prompt()
        terminal.type(CTRL_D)
        assert terminal.process.wait(60) == 0
