"""`mtad doctor` on pairs of tiny models, by a clock that forwards move."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from support import saved_pair
from support.command import cli, without_loading
from support.guarded import Meter
from support.heads import random_head
from support.tiny import PROMPTS, similar, tiny_model
from support.two_tokenizers import byte_level, characters, metaspace
from transformers import PreTrainedTokenizerFast

from mtad.advice import checkup
from mtad.advice.checkup import check_up, lossless_methods
from mtad.advice.page import as_dict, page
from mtad.advice.prompts import Asked, bundled_prompts
from mtad.api.pair import ModelPair
from mtad.core.options import jsonable
from mtad.errors import VocabularyMismatchError
from mtad.model.head_files import save_head
from mtad.testing import random_llama

ASKED = [Asked(kind, PROMPTS[i % 3]) for i, kind in enumerate(["a", "b", "a", "b"])]
SETTINGS = {"temperature": 0.0, "max_new_tokens": 12, "ignore_eos": True}


class Silent:
    """An observer that keeps the phases, and checks that each comes to its end."""

    def __init__(self) -> None:
        self.phases: list[list] = []

    def begin(self, phase: str, total: float) -> None:
        self.phases.append([phase, total, 0])

    def advance(self, done: float, status: str) -> None:
        self.phases[-1][2] = done

    def say(self, text: str) -> None:
        pass


def noisy(noise: float) -> ModelPair:
    """A tiny target with a copy of it as its draft, changed by so much noise."""
    target = tiny_model("llama")
    return ModelPair(target, similar(target, noise), None)


def examined(
    monkeypatch: pytest.MonkeyPatch, pair: ModelPair, asked: list[Asked] = ASKED, **seconds: float
) -> checkup.Checkup:
    """The checkup of a pair whose forwards take so long."""
    meter = Meter(monkeypatch, **seconds)
    for module in ("mtad.api.pair", "mtad.advice.checkup"):
        clocks = SimpleNamespace(perf_counter=meter, process_time=lambda: meter() / 2)
        monkeypatch.setattr(f"{module}.time", clocks)
    pair.graphs = None
    for name, value in (("LONGEST", 4), ("NUM_FASTEST", 1), ("ROUNDS", 1), ("NUM_TIMED", 2)):
        monkeypatch.setattr(checkup, name, value)
    monkeypatch.setattr("mtad.api.guard.PATIENT_ROUNDS", range(1, 2))
    heard = Silent()
    found = check_up(pair, asked, heard, **SETTINGS)
    assert [phase for phase, *_ in heard.phases] == [
        "timing forwards",
        "counting accepted drafts",
        "timing in turns",
    ]
    assert all(total == done for _, total, done in heard.phases)
    return found


@pytest.mark.slow
def test_a_good_draft(monkeypatch) -> None:
    found = examined(monkeypatch, noisy(0.0), draft=0.05, node=0.02)
    assert (found.verdict.pays, found.verdict.reason) == (True, None)
    assert found.evidence.rates[0] > 0.95 and set(found.evidence.by_kind) == {"a", "b"}
    name, offer = found.evidence.recommended
    measured = found.evidence.measured[name].value
    assert measured is not None and measured > 2
    assert found.evidence.prospect.costs.draft_s == pytest.approx(0.05)
    assert found.evidence.prospect.costs.target(9) == pytest.approx(1.16)
    text = page(found)
    assert "this one ran 50% of the time" in text
    assert "5.0% of a target forward" in text and "drafting pays" in text
    assert all(len(line) <= 110 for line in text.splitlines())
    record = json.loads(json.dumps(jsonable(as_dict(found)), allow_nan=False))
    assert record["verdict"]["pays"] is True and record["recommended"]["name"] == name
    assert record["methods"][name]["tokens_per_iteration"] == pytest.approx(offer.tokens)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("reason", "noise", "seconds"),
    [
        ("dear", 0.0, {"draft": 1.5, "node": 0.02}),
        ("poor", 5.0, {"draft": 0.3, "node": 0.05}),
        ("not flat", 0.0, {"draft": 0.05, "node": 1.0}),
    ],
)
def test_a_draft_that_does_not_pay(monkeypatch, reason, noise, seconds) -> None:
    found = examined(monkeypatch, noisy(noise), **seconds)
    assert (found.verdict.pays, found.verdict.reason) == (False, reason), page(found)
    measured = found.evidence.speed.value
    assert measured is not None and measured < 1, "and so it was"


def test_lossless_methods_are_compared_and_no_others() -> None:
    found = lossless_methods(8, True, {"temperature": 1.0})
    assert found[0].name == "speculative_sampling"
    names = {method.name for method in found}
    assert {"block_verification", "prompt_lookup", "mcss"} <= names
    assert all(method.is_lossless for method in found) and "autoregressive" not in names
    assert {getattr(m, "num_draft_tokens", 8) for m in found} == {8}
    assert {m.drafter for m in lossless_methods(8, False, {})} == {"none"}


def test_bundled_prompts_are_of_several_kinds() -> None:
    assert {one.kind for one in bundled_prompts("demo", None, 6)} == {"sql", "python", "chat"}
    chat = bundled_prompts("models/mine", SimpleNamespace(chat_template="{{ x }}"), 8)
    assert chat[0].kind == "instructions" and not isinstance(chat[0].prompt, str)
    plain = bundled_prompts("models/mine", None, 6)
    assert len(plain) == 6 and all(isinstance(one.prompt, str) for one in plain)


@pytest.mark.slow
def test_the_command_prints_a_page_or_json(monkeypatch, tmp_path) -> None:
    without_loading(monkeypatch)
    for name, value in (("LONGEST", 2), ("NUM_FASTEST", 1), ("ROUNDS", 1)):
        monkeypatch.setattr(checkup, name, value)
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "the cat", "category": "cats"}\n"x = x"\n')
    given = ("doctor", "--prompt-file", str(prompts), "--max-new-tokens", "4")
    given += ("--num-draft-tokens", "2")
    done = cli(*given)
    assert done.exit_code == 0 and "verdict" in done.stdout and "  cats" in done.stdout
    record = json.loads(cli(*given, "--json").stdout)
    assert set(record["acceptance_by_kind"]) == {"cats", "yours"}
    assert record["num_prompts"] == 2 and record["verdict"]["sentence"]
    assert record["memory"]["target_bytes"] > 0


def test_a_mismatched_draft_gets_a_verdict(monkeypatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise VocabularyMismatchError("5 of 300 token ids differ between target and draft")

    monkeypatch.setattr("mtad.api.pair.open_pair", refuse)
    done = cli("doctor")
    assert done.exit_code == 0 and "cannot draft for this target: 5 of 300" in done.stdout
    assert json.loads(cli("doctor", "--json").stdout)["verdict"]["reason"] == "mismatched"


def saved(folder: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    """A model of its own with this tokenizer, on disk."""
    random_llama(vocab=len(tokenizer), context=1024).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_a_draft_whose_tokens_are_all_other_ones_is_mismatched(tmp_path) -> None:
    """Loading refuses it, and the doctor says why and what helps."""
    signs = characters({chr(0x4E00 + i): i for i in range(300)})
    draft = saved(tmp_path / "signs", signs)
    given = ("doctor", "--target-model", saved_pair.folder() / "target", "--draft-model", draft)
    done = cli(*given)
    assert done.exit_code == 0
    said = " ".join(done.stdout.split())
    assert "verdict this draft cannot draft for this target: of the " in said
    assert "0 are the same, special ones apart" in said and "mtad distill --target-model" in said
    record = json.loads(cli(*given, "--json").stdout)
    assert record["draft"] == str(draft)
    assert (record["verdict"]["pays"], record["verdict"]["reason"]) == (False, "mismatched")


def test_a_head_of_another_target_is_mismatched(tmp_path) -> None:
    other = random_llama(vocab=200)
    save_head(random_head(other, 100), tmp_path / "head", other)
    target = saved_pair.folder() / "target"
    done = cli("doctor", "--target-model", target, "--draft-model", tmp_path / "head", "--json")
    verdict = json.loads(done.stdout)["verdict"]
    assert verdict["reason"] == "mismatched" and "was made for 200 token ids" in verdict["sentence"]


@pytest.mark.slow
def test_a_draft_with_another_tokenizer_is_examined_by_what_both_have(monkeypatch) -> None:
    """It drafts the common tokens, of which the target takes few, however cheap they are."""
    tokenizer, other = byte_level(), metaspace()
    target = random_llama(vocab=len(tokenizer), context=512)
    draft = random_llama(vocab=len(other), seed=3, context=512)
    pair = ModelPair(target, draft, tokenizer, draft_tokenizer=other)
    asked = [Asked("a", "the cat sat on"), Asked("b", "x = x + 1")] * 2
    found = examined(monkeypatch, pair, asked, draft=0.3, node=0.05)
    assert found.vocabulary.startswith("target and draft have different tokenizers")
    assert (found.verdict.pays, found.verdict.reason) == (False, "poor"), page(found)
    assert "vocabulary    target and draft have different tokenizers" in page(found)


def test_templates_are_compared() -> None:
    from mtad.advice.models import templates, vocabularies

    models = saved_pair.pair().models
    assert templates(models, saved_pair.tokenizer()) == "the same"
    other = SimpleNamespace(chat_template="another")
    assert templates(models, other).startswith("they differ")
    assert "comes without one" in templates(models, None)
    assert vocabularies(models).startswith("the same")
