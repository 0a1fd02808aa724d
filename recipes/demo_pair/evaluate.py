"""What the pair can do: accuracy of greedy decoding and sampling, perplexity, acceptance.

Plain transformers only; the numbers do not depend on the program they are meant to test.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
)

from mtad.demo.scoring import score
from recipes.demo_pair.corpus import encode

TOP_K, TOP_P = 10, 0.9
MAX_NEW_TOKENS = 96
BATCH_SIZE = 50

Items = list[dict[str, Any]]
Texts = list[tuple[list[int], list[int]]]


@dataclass(frozen=True)
class Pair:
    """Two models and their tokenizer, loaded like any user's."""

    target: LlamaForCausalLM
    draft: LlamaForCausalLM
    tokenizer: PreTrainedTokenizerBase

    @classmethod
    def load(cls, folder: Path, device: str) -> "Pair":
        """The pair in `folder`, computing in float32 with the weights as stored."""
        models = [
            AutoModelForCausalLM.from_pretrained(folder / role, dtype=torch.float32).to(device)
            for role in ("target", "draft")
        ]
        return cls(*models, AutoTokenizer.from_pretrained(folder / "target"))


def measure(pair: Pair, items: Items, num_seeds: int) -> dict[str, Any]:
    """All numbers of one test set."""
    prompts = [_prompt_ids(pair.tokenizer, item) for item in items]
    rights = encode(
        pair.tokenizer, [item["reference"] + pair.tokenizer.eos_token for item in items]
    )
    references = list(zip(prompts, rights, strict=True))
    drawn = [generate(pair.target, pair.tokenizer, prompts, seed) for seed in range(num_seeds)]
    runs = [accuracy(pair.tokenizer, items, answers) for answers in drawn]
    best = {
        role: accuracy(pair.tokenizer, items, generate(model, pair.tokenizer, prompts))
        for role, model in (("greedy", pair.target), ("draft_greedy", pair.draft))
    }
    return {
        "num_items": len(items),
        **best,
        "sampling": sum(runs) / len(runs),
        "sampling_runs": runs,
        "acceptance": acceptance(pair, list(zip(prompts, drawn[0], strict=True))),
        "target_perplexity": perplexity(pair.target, references),
        "draft_perplexity": perplexity(pair.draft, references),
    }


def _prompt_ids(tokenizer: PreTrainedTokenizerBase, item: dict[str, Any]) -> list[int]:
    """Prompt tokens as any user of the pair gets them."""
    if "prompt" in item:
        return list(tokenizer(item["prompt"]).input_ids)
    text = tokenizer.apply_chat_template(
        item["messages"], tokenize=False, add_generation_prompt=True
    )
    return list(tokenizer(text, add_special_tokens=False).input_ids)


def accuracy(tokenizer: PreTrainedTokenizerBase, items: Items, answers: list[list[int]]) -> float:
    """The share of items answered right."""
    texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids in answers]
    return sum(score(item, text) for item, text in zip(items, texts, strict=True)) / len(items)


@torch.inference_mode()
def generate(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    seed: int | None = None,
) -> list[list[int]]:
    """New tokens up to and with EOS; greedy without a seed."""
    torch.manual_seed(seed or 0)
    how = {"do_sample": True, "temperature": 1.0, "top_k": TOP_K, "top_p": TOP_P}
    options = {"do_sample": False} if seed is None else how
    answers = []
    for at in range(0, len(prompts), BATCH_SIZE):
        batch = tokenizer.pad({"input_ids": prompts[at : at + BATCH_SIZE]}, return_tensors="pt")
        batch = batch.to(model.device)
        whole = model.generate(**batch, max_new_tokens=MAX_NEW_TOKENS, **options)
        new = whole[:, batch["input_ids"].shape[1] :].tolist()
        answers += [_until_eos(ids, tokenizer.eos_token_id) for ids in new]
    return answers


def _until_eos(ids: list[int], eos: int) -> list[int]:
    return ids[: ids.index(eos) + 1] if eos in ids else ids


@torch.inference_mode()
def _answer_logits(model: LlamaForCausalLM, prompt: list[int], answer: list[int]) -> torch.Tensor:
    """The logits that predict each token of the answer, in float32."""
    ids = torch.tensor([prompt + answer], device=model.device)
    return model(ids).logits[0, len(prompt) - 1 : -1].float()


def perplexity(model: LlamaForCausalLM, texts: Texts) -> float:
    """The model's perplexity on the answers' tokens, without any warping."""
    total, count = 0.0, 0
    for prompt, answer in texts:
        laws = _answer_logits(model, prompt, answer).log_softmax(-1)
        picked = laws.gather(1, torch.tensor(answer, device=laws.device)[:, None])
        total, count = total - picked.sum().item(), count + len(answer)
    return math.exp(total / count)


def acceptance(pair: Pair, texts: Texts) -> float:
    """Mean of Σ min(p, q) over the positions of texts that the target sampled."""
    overlaps = []
    for prompt, answer in texts:
        p, q = (warp(_answer_logits(model, prompt, answer)) for model in (pair.target, pair.draft))
        overlaps.append(torch.minimum(p, q).sum(-1))
    return torch.cat(overlaps).mean().item()


def warp(logits: torch.Tensor) -> torch.Tensor:
    """The law sampled from: the 10 best tokens, of those the fewest that hold 0.9 of the mass."""
    cut = logits.topk(min(TOP_K, logits.shape[-1]), -1).values[..., -1:]
    law = logits.masked_fill(logits < cut, -torch.inf).softmax(-1)
    ranked, order = law.sort(descending=True, dim=-1)
    kept = (ranked.cumsum(-1) - ranked <= TOP_P) * ranked
    law = torch.zeros_like(law).scatter(-1, order, kept)
    return law / law.sum(-1, keepdim=True)
