"""Training one model: fixed batches, a rate that ends at zero, checkpoints to resume from."""

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from recipes.demo_pair.corpus import Bin
from recipes.demo_pair.presets import Preset, Shape
from recipes.demo_pair.tokenizer import MAX_LENGTH

Tick = Callable[[int, float], Any]
PROMPT_WEIGHT = 0.1
Batch = tuple[int, np.ndarray]


def build_model(shape: Shape, vocab_size: int, seed: int) -> LlamaForCausalLM:
    """A Llama model with fresh weights; ids 0, 1 and 2 are PAD, BOS and EOS."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_heads,
        max_position_embeddings=MAX_LENGTH,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return LlamaForCausalLM(config)


def plan_batches(bins: dict[int, Bin], preset: Preset) -> list[Batch]:
    """All batches of one epoch as (length, row numbers), in an order set by the seed.

    Every batch has the same number of tokens; the last of a bin is filled up with its first rows.
    """
    order = np.random.default_rng(preset.seed)
    batches: list[Batch] = []
    for length, rows in bins.items():
        size = preset.batch_tokens // length
        shuffled = np.resize(
            order.permutation(len(rows.tokens)), -(-len(rows.tokens) // size) * size
        )
        batches += [(length, chosen) for chosen in shuffled.reshape(-1, size)]
    random.Random(preset.seed).shuffle(batches)
    return batches


def place_in_data(step: int, shape: Shape) -> tuple[int, int]:
    """The phase that the step belongs to, and the number of the step within it."""
    number = sum(step >= first for first in shape.phase_steps) - 1
    return number, step - shape.phase_steps[number]


def rate_at(step: int, shape: Shape) -> float:
    """The share of the full learning rate: a short rise, a plateau, a straight fall to zero."""
    rise = min(1.0, (step + 1) / max(1, min(200, shape.num_steps // 10)))
    return rise * min(1.0, (shape.num_steps - step) / shape.num_decay_steps)


def loss_on(model: LlamaForCausalLM, rows: Bin, chosen: np.ndarray, device: str) -> torch.Tensor:
    """Mean cross-entropy of the answers' tokens, plus a little of the prompts'.

    The head runs on a third of the positions, answers first and then some of the prompts: a share
    that depends on the data would give every batch a new shape, which is slow on a CPU.
    """
    tokens = torch.from_numpy(rows.tokens[chosen].astype(np.int64)).to(device)
    starts, ends = (
        torch.from_numpy(a[chosen]).to(device)[:, None] for a in (rows.starts, rows.ends)
    )
    place = torch.arange(1, tokens.shape[1] + 1, device=device)
    weights = torch.where(place >= starts, 1.0, PROMPT_WEIGHT) * (place < ends)
    picked = weights.flatten().argsort(descending=True, stable=True)[: tokens.numel() // 3]
    hidden = model.model(input_ids=tokens, use_cache=False).last_hidden_state.flatten(0, 1)
    logits = model.lm_head(hidden[picked]).float()
    wanted, weight = tokens.roll(-1, 1).flatten()[picked], weights.flatten()[picked]
    losses = torch.nn.functional.cross_entropy(logits, wanted, reduction="none")
    return (losses * weight).sum() / weight.sum()


class Training:
    """A model being trained: advances step by step and can be written down and taken up again."""

    def __init__(self, shape: Shape, preset: Preset, vocab_size: int, device: str) -> None:
        self.shape, self.preset, self.device = shape, preset, device
        self.step, self.train_s = 0, 0.0
        self.model = build_model(shape, vocab_size, preset.seed).to(device).train()
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=shape.learning_rate,
            betas=(0.9, 0.98),
            weight_decay=0.05,
            fused=True,
        )

    def save(self, path: Path) -> None:
        """Write weights, optimizer and step; the rename makes it all or nothing."""
        part = path.with_suffix(".part")
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        torch.save({**state, "step": self.step, "train_s": self.train_s}, part)
        part.rename(path)

    def load_weights(self, path: Path) -> None:
        """Begin with the weights of another training."""
        self.model.load_state_dict(torch.load(path, map_location=self.device)["model"])

    def load(self, path: Path) -> None:
        """Take up what `save` wrote."""
        state = torch.load(path, map_location=self.device)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.train_s = state["step"], state["train_s"]

    def advance(self, rows: Bin, chosen: np.ndarray) -> float:
        """One optimizer step; returns the loss."""
        started = time.monotonic()
        for group in self.optimizer.param_groups:
            group["lr"] = self.shape.learning_rate * rate_at(self.step, self.shape)
        kind = self.device.split(":")[0]
        with torch.autocast(kind, torch.bfloat16, enabled=self.shape.autocast):
            loss = loss_on(self.model, rows, chosen, self.device)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        value = loss.item()
        self.train_s += time.monotonic() - started
        return value


def train(
    training: Training,
    data: list[dict[int, Bin]],
    path: Path,
    tick: Tick,
    stop_at: int | None = None,
) -> None:
    """Train to the end, or to `stop_at`; goes on from the checkpoint at `path` if there is one."""
    if path.exists():
        training.load(path)
    plans = [plan_batches(bins, training.preset) for bins in data]
    last = training.shape.num_steps if stop_at is None else stop_at
    while training.step < last:
        number, at = place_in_data(training.step, training.shape)
        length, chosen = plans[number][at % len(plans[number])]
        loss = training.advance(data[number][length], chosen)
        tick(training.step, loss)
        if training.step % training.preset.checkpoint_steps == 0 or training.step == last:
            training.save(path)
