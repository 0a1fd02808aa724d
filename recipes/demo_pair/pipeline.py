"""The stages in order: tokenizer, data, target, draft, measurements, export.

Every stage leaves a file in the work folder and is skipped when that file is there.
"""

import itertools
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from recipes.demo_pair import corpus, export
from recipes.demo_pair.card import card
from recipes.demo_pair.evaluate import Pair, measure
from recipes.demo_pair.presets import Preset
from recipes.demo_pair.tokenizer import train_tokenizer
from recipes.demo_pair.train import Training, train


def run_clean(preset: Preset, work: Path, device: str = "auto") -> dict[str, Any]:
    """Train a finished pair further on right answers, next to its own work folder."""
    folder = work.with_name(f"{work.name}-clean")
    if not (work / "results.json").exists():
        raise FileNotFoundError(f"no finished pair in {work}; run the recipe without --clean first")
    return run(preset.clean(), folder / "pair", folder, device, start=work)


def run(
    preset: Preset, output: Path, work: Path, device: str = "auto", start: Path | None = None
) -> dict[str, Any]:
    """Run what is left of the recipe and return the measurements.

    With `start`, the work folder of another run, go on from its tokenizer and models, and write
    no model card.
    """
    work.mkdir(parents=True, exist_ok=True)
    device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    with _progress() as bars:
        tokenizer, heldout = _tokenizer(preset, start or work), _heldout(preset, work)
        phases = range(len(preset.phases))
        data = [_bins(preset, number, work, tokenizer, bars) for number in phases]
        stage = Stage(preset, work, start, device, bars)
        trained = {role: stage.trained(role, data, len(tokenizer)) for role in ("target", "draft")}
        models = {role: training.model for role, training in trained.items()}
        export.write_pair(output, models, tokenizer)
        facts = {role: _facts(training) for role, training in trained.items()}
        about = {"vocab_size": len(tokenizer), "hardware": _hardware(device)}
        metrics = {**about, **facts, "results": stage.measured(output, heldout)}
    text = None if start else card(preset, metrics, _clean_metrics(work))
    export.write_words(output, heldout, metrics, text)
    return metrics


def _hardware(device: str) -> str:
    """What the training ran on, in words; nothing that names a machine."""
    return f"{os.cpu_count()} CPU cores" if device == "cpu" else torch.cuda.get_device_name(device)


def _facts(training: Training) -> dict[str, Any]:
    """What the model card tells about a training."""
    num_parameters = sum(weight.numel() for weight in training.model.parameters())
    made = {"num_steps": training.step, "train_s": round(training.train_s, 1)}
    return {"num_parameters": num_parameters, **made}


def _clean_metrics(work: Path) -> dict[str, Any] | None:
    """The measurements of the variant without noise, if it was trained."""
    path = work.with_name(f"{work.name}-clean") / "pair" / "metrics.json"
    return json.loads(path.read_text()) if path.exists() else None


def _progress() -> Progress:
    columns = TextColumn("{task.description:<28}"), BarColumn(), MofNCompleteColumn()
    return Progress(*columns, TimeRemainingColumn(), refresh_per_second=2)


def _tokenizer(preset: Preset, work: Path) -> PreTrainedTokenizerBase:
    folder = work / "tokenizer"
    if not folder.exists():
        examples = itertools.islice(
            corpus.training_examples(preset.seed, 0.0, preset.phases[0].odds),
            preset.num_tokenizer_examples,
        )
        texts = (text for problem, answer in examples for text in corpus.texts(problem, answer))
        part = work / "tokenizer.part"
        train_tokenizer(texts, preset.vocab_size).save_pretrained(part)
        part.rename(folder)
    return AutoTokenizer.from_pretrained(folder)


def _heldout(preset: Preset, work: Path) -> dict[str, list[dict[str, Any]]]:
    path = work / "heldout.json"
    if not path.exists():
        found = {name: corpus.heldout_set(name, preset) for name in corpus.HELDOUT_NAMES}
        export.write(path, json.dumps(found))
    return json.loads(path.read_text())


def _bins(
    preset: Preset, number: int, work: Path, tokenizer: PreTrainedTokenizerBase, bars: Progress
) -> dict[int, corpus.Bin]:
    path = work / f"data-{number}.npz"
    if not path.exists():
        bar = bars.add_task(f"data {number}", total=preset.phases[number].num_examples)
        bins = corpus.build_bins(preset, number, tokenizer, lambda n: bars.advance(bar, n))
        corpus.save_bins(bins, path)
    return corpus.load_bins(path)


@dataclass(frozen=True)
class Stage:
    """What the long stages share: settings, work folder, device, progress bars."""

    preset: Preset
    work: Path
    start: Path | None
    device: str
    bars: Progress

    def trained(self, role: str, data: list[dict[int, corpus.Bin]], vocab_size: int) -> Training:
        """The model of that role, trained to the end."""
        shape = {"target": self.preset.target, "draft": self.preset.draft}[role]
        training = Training(shape, self.preset, vocab_size, self.device)
        if self.start:
            training.load_weights(self.start / f"{role}.pt")
        tick = self._ticker(role, training)
        train(training, data, self.work / f"{role}.pt", tick)
        return training

    def _ticker(self, role: str, training: Training) -> Callable[[int, float], None]:
        """Moves the progress bar and keeps a log of the loss."""
        total, log = training.shape.num_steps, self.work / f"{role}.jsonl"
        bar = self.bars.add_task(role, total=total)

        def tick(step: int, loss: float) -> None:
            self.bars.update(bar, completed=step, description=f"{role}, loss {loss:.3f}")
            if step % 25 == 0 or step == total:
                line = {"step": step, "loss": loss, "train_s": round(training.train_s, 1)}
                with log.open("a") as file:
                    file.write(json.dumps(line) + "\n")

        return tick

    def measured(self, output: Path, heldout: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
        """The results on every test set, of the weights as they were written to `output`."""
        path = self.work / "results.json"
        if not path.exists():
            bar = self.bars.add_task("measuring", total=len(heldout))
            pair = Pair.load(output, self.device)
            results = {}
            for name, items in heldout.items():
                results[name] = measure(pair, items, self.preset.num_sampling_seeds)
                self.bars.advance(bar)
            export.write(path, json.dumps(results))
        return json.loads(path.read_text())
