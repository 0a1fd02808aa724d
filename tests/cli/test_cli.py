"""The command line: every flag, what goes to stdout and stderr, exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from support.command import MAIN, MODELS, SHORT, answer, cli, refused, without_loading
from support.saved_pair import pair, tokenizer

import mtad
import mtad.cli
import mtad.methods
from mtad.core.schema import attribute_docs


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    return without_loading(monkeypatch)


# --- help, version, methods


def test_help_lists_the_flags() -> None:
    text = cli("generate", "--help").stdout
    for flag in ("--target-model", "--num-speculative-tokens", "--accept-thres", "--prompt-file"):
        assert flag in text


def test_version() -> None:
    assert cli("--version").stdout == f"mtad {mtad.__version__}\n"


def test_the_table_of_methods() -> None:
    table = cli("methods").stdout
    for name in mtad.methods.names():
        assert name in table
        assert mtad.methods.find(name).citation.split(",")[0] in table
    assert "lossless" in table and "lossy" in table and "accept_threshold=0.5" in table
    rows = {line.split("│")[1].strip(): line for line in table.splitlines() if "│" in line}
    assert "lossless, but see its options" in rows["speculative_sampling"]
    assert "lossless, but" not in rows["autoregressive"] + rows["mtad"]
    assert "lossless, but see its options" in cli("methods", "speculative_sampling").stdout


def test_methods_as_json() -> None:
    sheets = json.loads(cli("methods", "--json").stdout)
    assert [s["name"] for s in sheets] == mtad.methods.names()
    for sheet in sheets:
        cls = mtad.methods.find(sheet["name"])
        assert sheet["lossless"] == cls.lossless
        assert sheet["rule"] and sheet["citation"]
        assert {o["name"] for o in sheet["options"]} == {f.name for f in fields(cls)}
        assert all(o["description"] and o["type"] for o in sheet["options"])


def test_one_method() -> None:
    shown = cli("methods", "mtad").stdout
    assert "η = max { i" in shown
    assert "accept_threshold" in shown and "τ >= 0" in shown
    assert json.loads(cli("methods", "mcss", "--json").stdout)["options"][0]["default"] == [4, 2, 2]
    message = refused("methods", "mtda")
    assert "no method 'mtda' (did you mean 'mtad'?); known methods: autoregressive" in message


def test_descriptions_are_read_from_the_docstring() -> None:
    text = (
        "Title.\n\n    Attributes:\n        a: one\n            and more: yes.\n        b, c: two."
    )
    assert attribute_docs(text) == {"a": "one and more: yes.", "b": "two.", "c": "two."}
    assert attribute_docs("Title.") == {}


# --- one prompt


@pytest.mark.slow
def test_an_int8_target_is_named_where_the_contract_is() -> None:
    flags = ("--target-weights", "int8", "--method", "speculative_sampling", *SHORT)
    result = cli("generate", "the cat", *flags)
    assert "speculative_sampling (lossless of the int8 target)" in result.stderr
    assert "the target's linear weights are int8" in result.stderr
    record = json.loads(cli("generate", "the cat", *flags, "--json").stdout)
    assert record["target_weights"] == "int8" and record["text"] + "\n" == result.stdout


def test_json(loads: list[Any]) -> None:
    record = answer("the cat", *SHORT)
    assert list(record) == [
        "prompt", "text", "token_ids", "finish_reason", "seed", "stats", "method", "target_weights",
    ]  # fmt: skip
    (expected,) = pair().generate("the cat", seed=3, max_new_tokens=12, ignore_eos=True)
    assert record["prompt"] == "the cat"
    assert record["text"] == expected.text
    assert record["token_ids"] == expected.token_ids
    assert (record["finish_reason"], record["seed"]) == ("length", 3)
    assert set(record["stats"]) == set(expected.stats.as_dict())
    assert record["method"] == {
        "name": "mtad",
        "options": vars(mtad.MTAD()),
        "lossless": False,
    }
    assert loads[0]["name"] == "demo"


def test_text_to_a_pipe_and_a_summary_to_stderr(loads: list[Any]) -> None:
    result = cli("generate", "the cat", *SHORT)
    assert result.stdout == answer("the cat", *SHORT)["text"] + "\n"
    (line,) = result.stderr.splitlines()
    for part in ("12 tokens", "decode only", "end to end", "block efficiency", "seed 3"):
        assert part in line
    assert "mtad (lossy)" in line and "draft acceptance rate" in line


@pytest.mark.slow
def test_the_embedded_pair_needs_no_names() -> None:
    record = answer("SELECT", "--max-new-tokens", "4", "--seed", "1")
    assert record["token_ids"]


def test_named_models_and_their_placement(loads: list[Any]) -> None:
    flags = "--dtype float32 --draft-dtype bfloat16 --device cpu --draft-device cpu".split()
    flags += "--target-weights int8 --draft-weights plain".split()
    answer("a", *MODELS, *flags, "--device-map", "auto", "--trust-vocabulary", *SHORT)
    assert loads == [
        {
            "name": None,
            "target": MODELS[1],
            "draft": MODELS[3],
            "dtype": "float32",
            "draft_dtype": "bfloat16",
            "target_weights": "int8",
            "draft_weights": "plain",
            "device": "cpu",
            "draft_device": "cpu",
            "device_map": "auto",
            "trust_vocabulary": True,
        }
    ]


@pytest.mark.slow
def test_models_on_disk_and_a_draft_in_another_dtype() -> None:
    record = answer("the cat", *MODELS, "--draft-dtype", "bfloat16", *SHORT)
    assert len(record["token_ids"]) == 12
    alone = answer("the cat", *MODELS[:2], "--method", "autoregressive", *SHORT)
    assert alone["stats"]["draft_acceptance_rate"] is None


SAMPLING = [
    ("--temperature 0", {"temperature": 0.0}),
    ("--temperature 3.5", {"temperature": 3.5}),
    ("--top-k 2", {"top_k": 2}),
    ("--top-p 0.3", {"top_p": 0.3}),
    ("--min-p 0.3", {"min_p": 0.3}),
    ("--repetition-penalty 3", {"repetition_penalty": 3.0}),
    ("--frequency-penalty 9", {"frequency_penalty": 9.0}),
    ("--presence-penalty 9", {"presence_penalty": 9.0}),
    ("--logit-bias 40=99 --logit-bias 41=99", {"logit_bias": {40: 99.0, 41: 99.0}}),
    ("--suppress-token 22 --suppress-token 7", {"suppress_tokens": (22, 7)}),
    ("--max-new-tokens 5", {"max_new_tokens": 5}),
    ("--max-new-tokens 0", {"max_new_tokens": 0}),
    ("--max-new-tokens 1", {"max_new_tokens": 1}),
    ("--stop e --stop t", {"stop": ["e", "t"]}),
    ("--seed 4", {"seed": 4}),
    ("--logit-bias 0=12", {"logit_bias": {0: 12.0}, "ignore_eos": False}),
    (
        "--logit-bias 0=12 --min-new-tokens 3",
        {"logit_bias": {0: 12.0}, "min_new_tokens": 3, "ignore_eos": False},
    ),
]


@pytest.mark.parametrize(("flags", "options"), SAMPLING)
def test_sampling_flags(loads: list[Any], flags: str, options: dict[str, Any]) -> None:
    ignore_eos = options.get("ignore_eos", True)
    base = ["--seed", "3", "--max-new-tokens", "12", *(["--ignore-eos"] if ignore_eos else [])]
    record = answer("the cat", *base, *flags.split())
    settings = {"seed": 3, "max_new_tokens": 12, "ignore_eos": True} | options
    (expected,) = pair().generate("the cat", **settings)
    assert record["token_ids"] == expected.token_ids
    assert record["text"] == expected.text


METHODS = [
    ("--num-draft-tokens 2", mtad.MTAD(num_draft_tokens=2)),
    ("--num-speculative-tokens 2", mtad.MTAD(num_draft_tokens=2)),
    ("--beam-width 2", mtad.MTAD(beam_width=2)),
    ("--accept-threshold 0.9", mtad.MTAD(accept_threshold=0.9)),
    ("--accept-thres 0.9", mtad.MTAD(accept_threshold=0.9)),
    ("-o accept_threshold=inf", mtad.MTAD(accept_threshold=float("inf"))),
    ("-o accept-threshold=1 --option beam=search", mtad.MTAD(accept_threshold=1.0, beam="search")),
    ("--method mcss --k-config 3,2", mtad.MCSS(k_config=(3, 2))),
    ("--method specinfer -o k_config=3", mtad.SpecInfer(k_config=(3,))),
    ("--method speculative_sampling -o accept_threshold=none", mtad.SpeculativeSampling()),
    (
        "--method speculative_sampling --accept-threshold 0.5",
        mtad.SpeculativeSampling(accept_threshold=0.5),
    ),
    ("--method mtad.methods.bild", mtad.BiLD()),
    ("--method BiLD", mtad.BiLD()),
    ("--method Speculative-Sampling", mtad.SpeculativeSampling()),
]


@pytest.mark.parametrize(("flags", "method"), METHODS)
def test_method_flags(loads: list[Any], flags: str, method: Any) -> None:
    record = answer("the cat", *SHORT, *flags.split())
    (expected,) = pair().generate("the cat", method, seed=3, max_new_tokens=12, ignore_eos=True)
    assert record["token_ids"] == expected.token_ids
    assert record["method"]["name"] == method.name
    assert record["method"]["lossless"] == method.is_lossless
    shown = {k: str(v) for k, v in record["method"]["options"].items()}
    assert shown == {
        k: str(list(v) if isinstance(v, tuple) else v) for k, v in vars(method).items()
    }


def test_a_method_in_the_working_directory(
    loads: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Path(mtad.methods.__file__).with_name("autoregressive.py").read_text("utf-8")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "rule.py").write_text(
        source.replace('"autoregressive"', '"own_rule"').replace(
            "    name:", "    quick: bool = False\n    level: int | None = 3\n\n    name:", 1
        )
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    options = ["-o", "quick=yes", "-o", "level=none"]
    record = answer("a", "--method", "own.rule", *options, *SHORT)
    assert record["method"]["options"] == {"quick": True, "level": None}
    assert "level is 'x'; it must be an integer or none" in refused(
        "generate", "a", "--method", "own.rule", "-o", "level=x"
    )
    assert "quick is '2'; it must be true or false" in refused(
        "generate", "a", "--method", "own.rule", "-o", "quick=2"
    )


def test_a_chat(loads: list[Any]) -> None:
    record = answer("hi", "--chat", "--system", "be brief", *SHORT)
    assert record["prompt"] == "hi"
    as_text = answer("<system>be brief<user>hi<assistant>", *SHORT)
    assert record["token_ids"] == as_text["token_ids"]


def test_stdin(loads: list[Any]) -> None:
    record = answer("-", *SHORT, stdin="the süße cat\n")
    assert record["prompt"] == "the süße cat"
    assert record["token_ids"] == answer("the süße cat", *SHORT)["token_ids"]
    message = refused("generate", "-", stdin="süß".encode() + b"\xfe", code=1)
    assert "the prompt is not UTF-8: byte 5 is 0xFE; give it as UTF-8" in message


@pytest.mark.parametrize(
    ("sent", "prompt"),
    [
        (b"hi\n", "hi"),
        (b"hi", "hi"),
        (b"hi\r\n", "hi"),
        (b"hi\n\n", "hi\n"),
        (b" hi\r", " hi\r"),
        (b"\xef\xbb\xbfhi\n", "hi"),
        ("a\u2028b\n".encode(), "a\u2028b"),
    ],
)
@pytest.mark.parametrize("given", [(), ("-",)])
def test_a_pipe_is_the_prompt_where_there_is_no_other(
    loads: list[Any], sent: bytes, prompt: str, given: tuple[str, ...]
) -> None:
    assert answer(*given, *SHORT, stdin=sent)["prompt"] == prompt


def generate_with(stdin: Any, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`mtad generate` as a program of its own, without models."""
    return subprocess.run(
        [*MAIN, "generate", *arguments, *SHORT],
        stdin=stdin,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_without_a_prompt_a_terminal_is_told_the_ways_to_give_one() -> None:
    parent, terminal = os.openpty()
    done = generate_with(terminal)
    os.close(parent), os.close(terminal)
    assert done.returncode == 2
    assert "there is no prompt; give a PROMPT or --prompt-file, or send" in done.stderr


@pytest.mark.slow
def test_a_prompt_from_a_terminal_is_asked_for() -> None:
    parent, terminal = os.openpty()
    os.write(parent, b"SELECT\n\x04")
    done = generate_with(terminal, "-", "--json")
    os.close(parent), os.close(terminal)
    assert done.stderr.startswith("type the prompt; Ctrl-D")
    assert json.loads(done.stdout)["prompt"] == "SELECT"


@pytest.mark.parametrize("given", [(), ("-",), ("--chat",)])
def test_an_empty_stdin_is_named(loads: list[Any], given: tuple[str, ...]) -> None:
    message = refused("generate", *given, stdin=b"", code=1)
    assert "the prompt is empty: it is to come from stdin, where there is nothing" in message
    assert loads == []


@pytest.mark.slow
def test_a_closed_stdin_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", None)  # as Python has it then
    for given, why in (([], "there is no prompt;"), (["-"], "stdin, which is closed")):
        monkeypatch.setattr(sys, "argv", ["mtad", "generate", *given])
        with pytest.raises(SystemExit):
            mtad.cli.main()
        assert why in capsys.readouterr().err


@pytest.mark.slow
def test_two_prompts_are_named(loads: list[Any], tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('"a"')
    for prompt in ("a", "-", ""):
        message = refused("generate", prompt, "--prompt-file", str(path))
        assert "both a PROMPT and --prompt-file were given; leave one out" in message


def test_a_random_seed_is_shown(loads: list[Any]) -> None:
    first = answer("the cat", *SHORT[2:])
    assert answer("the cat", "--seed", str(first["seed"]), *SHORT[2:])["text"] == first["text"]
    assert answer("the cat", *SHORT[2:])["seed"] != first["seed"]


def test_blocks_in_a_pipe(loads: list[Any]) -> None:
    result = cli("generate", "the cat", "--show-blocks", *SHORT)
    text, record = result.stdout.rstrip("\n"), answer("the cat", "--show-blocks", *SHORT)
    assert text.replace("│", "").replace("⟨", "").replace("⟩", "") == record["text"]
    assert "accepted draft token" in result.stderr and "ends a block" in result.stderr
    assert [b["num_accepted"] for b in record["blocks"]]
    ids = [token for block in record["blocks"] for token in block["token_ids"]]
    assert ids == record["token_ids"]


# --- refusals


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("a --overwrite", "--overwrite needs --output"),
        ("a --output x", "--output goes with --prompt-file"),
        ("a --system x", "--system needs --chat"),
        ("a --draft-model x", "--draft-model needs --target-model"),
        (
            "a --target-model x",
            "mtad needs a draft model; give --draft-model, or take a method that needs none: "
            "autoregressive, beam_search, mtjd, prompt_lookup, suffix",
        ),
        ("a --method mmtad --target-model x", "mmtad needs a draft model; give --draft-model"),
        ("a --method bild --target-model x --draft-dtype float32", "--draft-dtype needs"),
        ("a --method beam_search --temperature 0 --guard", "guard is True, and beam_search"),
        ("a -o gamma=3", "mtad has no option 'gamma'; its options: num_draft_tokens, beam_width"),
        ("a -o gamma", "expected NAME=VALUE"),
        ("a -o beam_width=2 --beam-width 2", "beam_width is given twice"),
        ("a --method bild --beam-width 2", "bild has no option 'beam_width'; its options: fallb"),
        ("a --method autoregressive -o x=1", "its options: it has none"),
        ("a --method nothing", "there is no method 'nothing'; known methods: autoregressive"),
        ("a --method no.where", "'no.where' cannot be imported"),
        ("a --beam-width two", "beam_width is 'two'; it must be an integer"),
        ("a --accept-threshold nan", "accept_threshold is 'nan'; it must be a number"),
        ("a --accept-threshold -1", "accept_threshold is -1.0; it must be"),
        ("a -o endpoint=last", "endpoint is 'last'; it must be sample or greedy"),
        ("a --num-draft-tokens 0", "num_draft_tokens is 0; it must be"),
        ("a --method mcss --k-config 4,,2", "k_config is '4,,2'; it must be integers with commas"),
        ("a --temperature -1", "temperature is -1.0; it must be a finite number >= 0"),
        ("a --top-p 1.5", "top_p is 1.5"),
        ("a --top-k -1", "top_k is -1"),
        ("a --min-new-tokens 9 --max-new-tokens 8", "min_new_tokens is 9"),
        ("a --logit-bias 3:4", "--logit-bias is '3:4'; it must be ID=VALUE"),
        ("a --stop=", "--stop is empty"),
        ("- --tensor-parallel", "--tensor-parallel goes without a prompt from stdin, --output"),
        ("--tensor-parallel", "--tensor-parallel goes without a prompt from stdin, --output"),
        ("a --tensor-parallel --trace x", "give a PROMPT or --prompt-file, and write with >"),
        ("a --max-batch-size 0", "Invalid value for '--max-batch-size'"),
        ("a --dtype int3", "Invalid value for '--dtype': 'int3' is not one of auto, bfloat16"),
        ("a --dtype bfloat-16", "float64 (did you mean 'bfloat16'?)."),
        ("a --draft-dtype Float32", "float64 (did you mean 'float32'?)."),
        ("a --method mtda", "no method 'mtda' (did you mean 'mtad'?); known"),
        ("a --method typical", "no method 'typical' (did you mean 'typical_acceptance'?); known"),
        ("a --method MTAD -o beam_widht=2", "'beam_widht' (did you mean 'beam_width'?); its"),
        ("a -o beam=serch", "beam is 'serch' (did you mean 'search'?); it must be sample, "),
        ("a -o endpoint=Greedy", "endpoint is 'Greedy' (did you mean 'greedy'?); it must be"),
        ("a --tempereture 1", "--temperature"),
        ("a --prompt-file /nowhere/p.jsonl", "does not exist"),
        ("a --frobnicate", "No such option: --frobnicate"),
    ],
)
def test_usage_errors_come_before_loading(loads: list[Any], arguments: str, message: str) -> None:
    assert message in refused("generate", *arguments.split())
    assert loads == []


def test_a_token_id_out_of_range(loads: list[Any]) -> None:
    assert "token id 5000 is not in the vocabulary" in refused(
        "generate", "a", "--logit-bias", "5000=1"
    )


def test_a_missing_checkpoint() -> None:
    message = refused(
        "generate", "a", "--target-model", "/nowhere/t", "--draft-model", "/nowhere/d", code=1
    )
    assert "cannot load the target model from '/nowhere/t'" in message


def test_an_empty_prompt_and_one_that_is_too_long(loads: list[Any]) -> None:
    assert "the prompt is empty" in refused("generate", "", code=1)
    message = refused("generate", "the cat", "--max-new-tokens", "5000", code=1)
    assert "context is 1024 tokens" in message


def test_debug_shows_the_traceback() -> None:
    with pytest.raises(ValueError, match="there is no method"):
        cli("generate", "a", "--method", "nothing", "--debug")


@pytest.mark.slow
def test_a_closed_pipe_is_quiet() -> None:
    read, write = os.pipe()
    os.close(read)
    process = subprocess.run([*MAIN, "--help"], stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert process.returncode != 0
    assert process.stderr == b""


def test_the_tokenizer_of_these_tests_has_the_ids_they_name() -> None:
    assert tokenizer().eos_token_id == 0
