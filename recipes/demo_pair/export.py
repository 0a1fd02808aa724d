"""Writing the results: model folders, test sets, measurements and model card, each whole or not."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, LlamaForCausalLM, PreTrainedTokenizerBase


def write_pair(
    output: Path, models: dict[str, LlamaForCausalLM], tokenizer: PreTrainedTokenizerBase
) -> None:
    """Put the model folders in `output`."""
    output.mkdir(parents=True, exist_ok=True)
    for role, model in models.items():
        _write_model(output / role, model, tokenizer)


def write_words(
    output: Path,
    heldout: dict[str, list[dict[str, Any]]],
    metrics: dict[str, Any],
    card: str | None,
) -> None:
    """Put test sets, measurements and the model card, if there is one, in `output`."""
    (output / "heldout").mkdir(exist_ok=True)
    for name, items in heldout.items():
        lines = "".join(json.dumps(item) + "\n" for item in items)
        write(output / "heldout" / f"{name}.jsonl", lines)
    write(output / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    if card:
        write(output / "README.md", card)


def write(path: Path, text: str) -> None:
    """Write a text file so that no reader sees half of it."""
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    part.rename(path)


def _write_model(folder: Path, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase) -> None:
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    saved = LlamaForCausalLM(model.config).to(torch.bfloat16)
    saved.load_state_dict(model.state_dict())
    saved.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    saved.save_pretrained(part)
    tokenizer.save_pretrained(part)
    for file in part.iterdir():
        file.chmod(0o644)
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)
