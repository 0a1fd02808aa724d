"""A target spread over two processes says what it says in one; run by torchrun, this file is one.

The processes are real, their group is gloo's; each decodes and the first one prints.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.saved_pair import folder
from support.tiny import heat_of, tiny_model

from mtad import methods
from mtad.api.pair import load_pair
from mtad.errors import UnsupportedModelError
from mtad.model.loading import load_models
from mtad.model.memory import weights_bytes
from mtad.model.parallel import (
    agreed,
    num_parts,
    only_first_process_writes,
    part_device,
    require_whole_heads,
)

TESTS = str(Path(__file__).resolve().parents[1])
TORCHRUN = "RANK LOCAL_RANK WORLD_SIZE MASTER_ADDR MASTER_PORT".split()
DEMO_METHODS = ["mtad", "speculative_sampling"]
OPTIONS: dict[str, Any] = {"seed": 3, "guard": False, "ignore_eos": True}


def texts_of(place: Path, **plan: Any) -> dict[str, Any]:
    """What both pairs say with every method, greedy and sampled."""
    tiny = load_pair(target=place / "target", draft=place / "draft", dtype="float32", **plan)
    demo = load_pair("demo", dtype="float32", **plan)
    prompts = ["the cat sat", "x = x"]
    found: dict[str, Any] = {"parts": [tiny.models.num_parts, demo.models.num_parts]}
    for name in methods.names():
        for temperature in sorted({0.0, heat_of(name)}):
            options = OPTIONS | {"temperature": temperature, "max_new_tokens": 10}
            said = tiny.generate(prompts, name, **options)
            found[f"tiny {name} {temperature}"] = [one.token_ids for one in said]
    for name in DEMO_METHODS:
        said = demo.generate(["SELECT name FROM", "def area(r):"], name, max_new_tokens=16, seed=3)
        found[f"demo {name}"] = [one.text for one in said]
    return found


def seen_of(place: Path) -> dict[str, Any]:
    """What one of the processes holds, and how it is refused what it can't have."""
    target = load_models(place / "target", tp_plan="auto").target
    weight: Any = target.get_parameter("model.layers.0.self_attn.q_proj.weight")
    demo = load_pair("demo", tp_plan="auto")  # in bfloat16, and large enough to be packed
    (said,) = demo.generate("SELECT", "autoregressive", max_new_tokens=4, ignore_eos=True, seed=0)
    seen: dict[str, Any] = {
        "agreed": agreed(int(os.environ["RANK"])),
        "weight": [list(weight.shape), list(weight.to_local().shape)],
        "bfloat16": len(said.token_ids),
    }
    with pytest.raises(UnsupportedModelError) as caught:
        load_models(place / "opt", tp_plan="auto")
    return seen | {"refused": str(caught.value)}


def drawn_of(place: Path) -> dict[str, Any]:
    """What is said without a seed or a word on the guard, where each process is its own judge."""
    pair = load_pair(target=place / "target", draft=place / "draft", tp_plan="auto")
    said = pair.generate("the cat", "speculative_sampling", max_new_tokens=60, ignore_eos=True)
    everybodys: list[Any] = [None, None]
    torch.distributed.all_gather_object(everybodys, said[0].token_ids)
    with pytest.raises(ValueError, match="clocks would not agree") as caught:
        pair.generate("the cat", "speculative_sampling", guard=True)
    assert pair.graphs is not None
    return {
        "everybody's": everybodys,
        "guard": str(caught.value),
        "eager": pair.graphs.reason("any method"),
        "bytes": weights_bytes(pair.models.target),
    }


def main(place: Path) -> None:
    """What one process does."""
    torch.set_num_threads(1)
    with only_first_process_writes():
        print(json.dumps(texts_of(place, tp_plan="auto") | seen_of(place) | drawn_of(place)))


@pytest.fixture(scope="module")
def spread(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What two processes say, and what the first of them sees."""
    if importlib.util.find_spec("accelerate") is None:
        pytest.skip("tensor parallelism needs accelerate")
    place = tmp_path_factory.mktemp("spread")
    for name in ("target", "draft"):
        (place / name).symlink_to(folder() / name)
    tiny_model("opt").save_pretrained(place / "opt")
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", __file__]
    path = os.pathsep.join(filter(None, [TESTS, os.environ.get("PYTHONPATH")]))
    ran = subprocess.run(
        [sys.executable, *launch, str(place)],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path},
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    found: dict[str, Any] = json.loads(ran.stdout)  # one object: the other process keeps still
    return found


@pytest.mark.slow
def test_two_processes_say_what_one_says(spread: dict[str, Any]) -> None:
    alone = texts_of(folder())
    assert (alone.pop("parts"), spread["parts"]) == ([1, 1], [2, 2])
    assert len(alone) > 20
    assert {name: spread[name] for name in alone} == alone


@pytest.mark.slow
def test_each_process_holds_a_part(spread: dict[str, Any]) -> None:
    (rows, columns), own = spread["weight"]
    assert own == [rows // 2, columns]
    assert spread["bfloat16"] == 4, "what would be packed if it were whole"


@pytest.mark.slow
def test_the_first_process_decides(spread: dict[str, Any]) -> None:
    assert spread["agreed"] == 0


@pytest.mark.slow
def test_without_a_seed_all_say_the_same(spread: dict[str, Any]) -> None:
    one, other = spread["everybody's"]
    assert one == other and len(one) == 60


@pytest.mark.slow
def test_nothing_depends_on_what_one_process_measures(spread: dict[str, Any]) -> None:
    assert "2 processes" in spread["guard"]
    assert spread["eager"] == "the target is spread over 2 processes"


@pytest.mark.slow
def test_memory_counts_what_a_process_holds(spread: dict[str, Any]) -> None:
    whole = weights_bytes(load_models(folder() / "target").target)
    assert whole / 2 < spread["bytes"] < 0.6 * whole, "norms are whole everywhere"


@pytest.mark.slow
def test_an_architecture_without_a_plan_is_refused(spread: dict[str, Any]) -> None:
    assert "cannot be spread over processes" in spread["refused"]
    assert "OPTForCausalLM" in spread["refused"]


# --- what is refused before anything is loaded


def launched(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if torchrun had started this process, and accelerate were there."""
    for name in TORCHRUN:
        monkeypatch.setenv(name, "0")
    monkeypatch.setattr("mtad.model.parallel.importlib.util.find_spec", lambda name: object())
    monkeypatch.setattr("torch.accelerator.current_accelerator", lambda **_: None)


def test_a_plan_needs_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in TORCHRUN:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match=r"not started with others.* torchrun --nproc-per-node 2"):
        load_models(folder() / "target", tp_plan="auto")


def test_a_plan_is_auto_or_rules() -> None:
    with pytest.raises(ValueError, match=r"tp_plan is 'colwise'; it must be \"auto\" or a dict"):
        part_device("colwise")


def test_a_plan_places_the_target_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    launched(monkeypatch)
    assert part_device("auto", device="auto", device_map=None, target_weights=None) == "cpu"
    rules = {"layers.*.mlp.up_proj": "colwise"}
    assert part_device(rules, device="cpu", target_weights=None) == "cpu"
    with pytest.raises(ValueError, match="goes to 'cpu'; leave device at auto"):
        part_device("auto", device="cuda:1")
    with pytest.raises(ValueError, match="device_map is 'auto' and tp_plan is 'auto'; give one"):
        part_device("auto", device_map="auto")
    with pytest.raises(ValueError, match="target_weights is 'int8' and tp_plan"):
        part_device("auto", target_weights="int8")


def test_each_process_has_a_device_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    launched(monkeypatch)
    monkeypatch.setenv("LOCAL_RANK", "3")
    found = SimpleNamespace(type="cuda")
    monkeypatch.setattr("torch.accelerator.current_accelerator", lambda **_: found)
    assert part_device("auto", device="auto") == part_device("auto", device="cuda") == "cuda:3"
    with pytest.raises(ValueError, match=r"device is 'cuda:0'.* goes to 'cuda:3'"):
        part_device("auto", device="cuda:0")


@pytest.mark.parametrize("option", ["tp_plan", "device_map"])
def test_accelerate_is_asked_for_by_name(option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    launched(monkeypatch)
    monkeypatch.setattr("mtad.model.parallel.importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=f"{option} is 'auto' and needs the package accelerate"):
        load_models(folder() / "target", **{option: "auto"})


def test_heads_are_dealt_out_whole() -> None:
    def model(parts: int | None, rule: str = "layers.*.self_attn.q_proj") -> Any:
        config = SimpleNamespace(num_attention_heads=12, num_key_value_heads=4)
        config.get_text_config = lambda: config
        return SimpleNamespace(config=config, tp_size=parts, tp_plan={rule: "colwise"})

    for parts in (None, 1, 2, 4):
        require_whole_heads(model(parts))
    require_whole_heads(model(3, "layers.*.mlp.up_proj"))
    with pytest.raises(ValueError, match=r"num_key_value_heads 4, which 3 .* processes: 1, 2, 4"):
        require_whole_heads(model(3))


def test_one_process_is_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert agreed([7]) == [7]
    assert num_parts(load_models(folder() / "target").target) == 1
    with only_first_process_writes():
        print("said")
    assert capsys.readouterr().out == "said\n"


def test_the_other_processes_keep_still(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(ValueError, match="heard"), only_first_process_writes():
        print("not said")
        print("nor this", file=sys.stderr)
        raise ValueError("heard")
    assert capsys.readouterr() == ("", "")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
