"""`mtad distill` from the command line: the draft that comes of it decodes."""

import json
from pathlib import Path

import pytest
from support import saved_pair
from support.command import answer, cli, refused

from mtad.distill import result
from mtad.server.settings import read_settings

TARGET = str(saved_pair.folder() / "target")


def made(folder, *options):
    """A draft made in a few seconds, the arguments, and what the command said."""
    prompts = folder.parent / "prompts.jsonl"
    prompts.write_text("".join(f'{{"prompt": "the cat {i}"}}\n' for i in range(40)))
    arguments = ["distill", "--target", TARGET, "--output", str(folder), "--prompts", str(prompts)]
    arguments += options
    small = ["--hours", "0.0008", "--draft-vocab-size", "200", "--batch-size", "20"]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("NUM_PROMPTS", 2), ("NUM_TOKENS", 12), ("ROUNDS", 1)):
            patch.setattr(result, name, value)
        done = cli(*arguments, *small, "--max-new-tokens", "12")
    assert done.exit_code == 0, done.output
    return folder, arguments, done


@pytest.fixture(scope="module")
def draft(tmp_path_factory):
    """A head, made once."""
    return made(tmp_path_factory.mktemp("distill") / "draft")


@pytest.mark.slow
def test_the_folder_is_a_draft_with_its_card_and_figures(draft):
    folder, _, done = draft
    names = {path.name for path in folder.iterdir()}
    files = {"config.json", "model.safetensors", "figures.json", "README.md", "pair.toml"}
    assert names == files | {"work"}
    figures = json.loads((folder / "figures.json").read_text())
    assert set(figures["acceptance_by_position"]) == {"0", "1"}
    assert figures["num_answers"] == 40
    assert "plain decoding's speed" in done.stdout
    card = (folder / "README.md").read_text()
    assert (
        "40 answers of the target" in card and f"{figures['measured'][0]['speed_up']:.2f}" in card
    )


@pytest.mark.slow
def test_the_pair_file_is_one_for_the_server(draft):
    folder, _, _ = draft
    settings = read_settings(folder / "pair.toml")
    figures = json.loads((folder / "figures.json").read_text())
    assert Path(settings["target_model"]) == Path(TARGET).resolve()
    assert Path(settings["draft_model"]) == folder.resolve()
    assert settings["method"].name == "speculative_sampling"
    assert settings["method"].num_draft_tokens == figures["measured"][-1]["num_draft_tokens"]
    assert figures["copy_rates"] == json.loads((folder / "config.json").read_text())["copy_rates"]
    assert figures["copy_rates"][0] == 0 < figures["copy_rates"][-1]


@pytest.mark.slow
def test_it_decodes_as_the_target_alone(draft):
    require_greedy_as_target(draft[0])


@pytest.mark.slow
def test_a_draft_of_its_own_decodes_as_the_target_alone(tmp_path):
    folder, _, done = made(tmp_path / "own", "--kind", "standalone", "--num-layers", "1")
    assert "it begins with 1 of the target's 2 layers (1)" in done.stderr
    assert {"config.json", "model.safetensors", "figures.json", "README.md"} <= {
        path.name for path in folder.iterdir()
    }
    config = json.loads((folder / "config.json").read_text())
    assert (config["num_hidden_layers"], config["draft_vocab_size"]) == (1, 200)
    assert "A model of its own" in (folder / "README.md").read_text()
    require_greedy_as_target(folder)


def require_greedy_as_target(folder):
    """That the command takes the folder as a draft, and the text is the target's."""
    ask = ["the cat", "--target-model", TARGET, "--temperature", "0", "--max-new-tokens", "20"]
    plain = answer(*ask, "--method", "autoregressive")
    with_draft = ("--draft-model", str(folder), "--method", "speculative_sampling", "--no-guard")
    drafted = answer(*ask, *with_draft)
    assert drafted["token_ids"] == plain["token_ids"]
    assert drafted["stats"]["num_draft_tokens"] > 0


@pytest.mark.slow
def test_other_options_do_not_go_on_with_its_work(draft):
    _, arguments, _ = draft
    message = refused(*arguments, "--hours", "3", code=1)
    assert "has the work of another plan: its hours is 0.0008, and not 3.0" in message


def test_options_that_cannot_be_are_refused(tmp_path):
    start = ["distill", "--target", TARGET, "--output", str(tmp_path / "d")]
    assert "--hours is 0" in refused(*start, "--hours", "0")
    assert "--num-layers is 2" in refused(*start, "--num-layers", "2")
    assert "'tail' is not one of head, standalone" in refused(*start, "--kind", "tail")
    many = refused(*start, "--kind", "standalone", "--num-layers", "3")
    assert "num_layers is 3, and the target has 2; it must be from 1 to 2" in many
    assert "no such folder" in refused(
        "distill", "--target", "nowhere", "--output", str(tmp_path), code=1
    )
