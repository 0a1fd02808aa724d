"""The documentation is true: its code runs, its commands work, its links lead somewhere."""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
import tomllib
import types
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import openai
import pytest
from support.saved_pair import folder
from support.serving import real_server
from typer.testing import CliRunner

from mtad.cli import app
from mtad.core.schema import attribute_docs

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LANGUAGES = {"python", "console", "text", "json", "toml", "bibtex"}


@dataclass(frozen=True)
class Snippet:
    """A fenced block of a page; `line` is that of its first line of code."""

    page: Path
    language: str
    code: str
    line: int

    @property
    def commands(self) -> list[str]:
        """The commands of a console block."""
        return [line[2:] for line in self.code.splitlines() if line.startswith("$ ")]


def snippets(page: Path, language: str | None = None) -> list[Snippet]:
    text = page.read_text(encoding="utf-8")
    found = [
        Snippet(page, m[1], m[2], text.count("\n", 0, m.start(2)) + 1) for m in FENCE.finditer(text)
    ]
    return [s for s in found if language in (None, s.language)]


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


def having(language: str) -> list[Path]:
    return [page for page in PAGES if snippets(page, language)]


@pytest.fixture
def shell_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the documentation's commands run in."""
    (tmp_path / "models").symlink_to(folder())
    prompts = snippets(ROOT / "docs" / "getting-started.md", "json")[0].code
    (tmp_path / "prompts.jsonl").write_text(prompts, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(ROOT)
    return tmp_path


@pytest.mark.parametrize("page", having("python"), ids=named)
def test_python_runs(page: Path, shell_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The snippets of a page run one after the other in one namespace."""
    module = types.ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)
    with served(page, monkeypatch):
        for snippet in snippets(page, "python"):
            source = "\n" * (snippet.line - 1) + snippet.code
            exec(compile(source, str(page), "exec", dont_inherit=True), vars(module))


@contextmanager
def served(page: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A server for the snippets of the page about it, in place of the one on port 8000."""
    if page.name != "server.md":
        yield
        return
    with real_server() as server, ExitStack() as clients:

        def client(base_url: str, api_key: str) -> openai.OpenAI:
            assert base_url == "http://127.0.0.1:8000/v1"
            made = real(base_url=f"{server.url}/v1", api_key=api_key)
            return clients.enter_context(made)

        real = openai.OpenAI
        monkeypatch.setattr(openai, "OpenAI", client)
        yield


COMMANDS = [
    (named(page), command)
    for page in PAGES
    for snippet in snippets(page, "console")
    for command in snippet.commands
]


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_command_works(page: str, command: str, shell_folder: Path) -> None:
    words = shlex.split(command)
    match words:
        case ["mtad", "bench", *_]:
            assert page == "docs/benchmarks.md"  # test_the_benchmark_commands_work_in_order
        case ["mtad", *arguments]:
            # of some seeds the first tokens are white space alone
            short = ["--max-new-tokens", "8", "--seed", "1"] if arguments[0] == "generate" else []
            result = CliRunner().invoke(app, [*arguments, *short], catch_exceptions=False)
            assert result.exit_code == 0, result.output
            assert result.stdout.strip() or (shell_folder / "answers.jsonl").exists()
        case ["bash", script, *_]:
            assert (ROOT / script).is_file()
        case [".venv/bin/python", script]:
            assert (ROOT / script).is_file()
        case ["git", "clone", *_] | [".venv/bin/pre-commit", "install"]:
            pass
        case ["source", ".venv/bin/activate"] | ["pip", "install" | "wheel", *_]:
            pass  # tests/docs/test_install.py
        case _:
            pytest.fail(f"{page} has a command that no test knows: {command}")


@pytest.mark.slow
def test_the_benchmark_commands_work_in_order(shell_folder: Path) -> None:
    """Each needs what the one before it wrote."""
    (shell_folder / "benchmarks").symlink_to(ROOT / "benchmarks")
    wanted = [c for page, c in COMMANDS if c.startswith("mtad bench") and "benchmarks.md" in page]
    assert len(wanted) >= 3
    for command in wanted:
        words = shlex.split(command)[1:]
        result = CliRunner().invoke(app, words, catch_exceptions=False)
        assert result.exit_code == 0, result.output
    assert (shell_folder / "smoke" / "report" / "report.html").stat().st_size > 10_000


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_block_has_a_known_language(page: Path) -> None:
    assert {s.language for s in snippets(page)} <= LANGUAGES
    assert page.read_text(encoding="utf-8").count("```") == 2 * len(snippets(page))


def test_toml_blocks_are_toml() -> None:
    tables = [tomllib.loads(s.code) for page in PAGES for s in snippets(page, "toml")]
    assert tables


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_console_blocks_hold_commands_only(page: Path) -> None:
    for snippet in snippets(page, "console"):
        assert len(snippet.commands) == len(snippet.code.splitlines())


def slugs(page: Path) -> set[str]:
    """The anchors of a page's headings."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title).lower().replace(" ", "-") for title in titles}


def links(page: Path) -> Iterator[tuple[Path, str]]:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for target, anchor in re.findall(r"\]\(([^)#]*)#?([^)]*)\)", text):
        if not target.startswith("http"):
            yield (page.parent / target).resolve() if target else page, anchor


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in links(page):
        assert target.exists(), target
        assert not anchor or anchor in slugs(target), f"{target}#{anchor}"


def test_every_page_is_reached_from_the_index() -> None:
    reached: set[Path] = set()
    left = [ROOT / "docs" / "index.md"]
    while left:
        page = left.pop()
        reached.add(page)
        left += [t for t, _ in links(page) if t.suffix == ".md" and t not in reached]
    assert set(PAGES) - {ROOT / "README.md"} <= reached


def test_the_modules_are_all_described() -> None:
    found = (ROOT / "src" / "mtad").iterdir()
    modules = {p.name for p in found if p.suffix == ".py" or p.is_dir()}
    modules -= {"__init__.py", "__pycache__"}
    for page in (ROOT / "README.md", ROOT / "docs" / "architecture.md"):
        missing = {m for m in modules if m not in page.read_text(encoding="utf-8")}
        assert not missing, page


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_scripts_and_examples_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    paths = set(re.findall(r"\b(?:scripts|examples|recipes|benchmarks)/[\w\-./]*\w", text))
    assert [path for path in sorted(paths) if not (ROOT / path).exists()] == []


def test_the_file_map_names_what_exists() -> None:
    tree = next(s.code for s in snippets(ROOT / "README.md", "text") if "src/mtad/" in s.code)
    inner = re.findall(r"^  (\S.*?)(?:   |$)", tree, re.MULTILINE)
    outer = re.findall(r"^(\S+)", tree, re.MULTILINE)
    paths = [ROOT / name for name in outer]
    paths += [ROOT / "src" / "mtad" / name for names in inner for name in names.split()]
    assert [p for p in paths if not p.exists()] == []


@cache
def generator() -> types.ModuleType:
    """docs/generate.py."""
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["generate"] = module  # its dataclass looks for itself there
    spec.loader.exec_module(module)
    return module


def stale_in(root: Path, parts: list[Any], capsys: pytest.CaptureFixture[str]) -> set[str]:
    """What `docs/generate.py --check` names; its exit status says whether it names anything."""
    capsys.readouterr()
    status = generator().check(parts, root)
    names = set(re.findall(r"^stale: (.*)$", capsys.readouterr().out, re.MULTILINE))
    assert status == bool(names)
    return names


@pytest.mark.slow
def test_what_the_program_says_of_itself_is_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert stale_in(ROOT, generator().from_program(), capsys) == set()


@pytest.mark.slow
def test_the_tables_of_results_are_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    parts = generator().from_results()
    assert stale_in(ROOT, [*generator().from_program(), *parts], capsys) == set()


def test_stale_parts_are_found_and_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generate, readme = generator(), tmp_path / "README.md"
    (tmp_path / "docs").mkdir()
    around = "top\n<!-- one:begin -->{}<!-- one:end -->\n<!-- two:begin --><!-- two:end -->\nend\n"
    readme.write_text(around.format("old"), encoding="utf-8")
    parts = [
        generate.Part("docs/methods/mtad.md", "a method\n"),
        generate.Part("docs/cli.md", "the commands\n"),
        generate.Part("README.md", "first", "one"),
        generate.Part("README.md", "second", "two"),
    ]
    every = {part.path for part in parts}
    assert stale_in(tmp_path, parts, capsys) == every
    assert generate.write(parts, tmp_path) == 0
    assert stale_in(tmp_path, parts, capsys) == set()
    text = readme.read_text(encoding="utf-8")
    assert text.split() == around.format(" first ").replace("><", "> second <").split()

    (tmp_path / "docs" / "methods" / "mtad.md").unlink()
    (tmp_path / "docs" / "methods" / "gone.md").write_text("old", encoding="utf-8")
    with (tmp_path / "docs" / "cli.md").open("a", encoding="utf-8") as page:
        page.write("more")
    readme.write_text(text.replace("second", "third"), encoding="utf-8")
    assert stale_in(tmp_path, parts, capsys) == every | {"docs/methods/gone.md"}
    assert generate.write(parts, tmp_path) == 0
    assert stale_in(tmp_path, parts, capsys) == set()
    assert not (tmp_path / "docs" / "methods" / "gone.md").exists()
    assert readme.read_text(encoding="utf-8") == text


def test_every_option_has_a_meaning() -> None:
    for cls in generator().all_methods():
        described = attribute_docs(cls.__doc__ or "")
        assert described.keys() == vars(cls()).keys(), cls
        assert all(described.values()), cls
