"""What lm-eval's log-probabilities and texts should be: those of plain transformers."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from mtad.demo import TARGET_PATH


class Plain:
    """The embedded target in float32, without anything of mtad but its files."""

    @cached_property
    def tokenizer(self) -> Any:
        return AutoTokenizer.from_pretrained(TARGET_PATH)

    @cached_property
    def model(self) -> Any:
        return AutoModelForCausalLM.from_pretrained(TARGET_PATH, dtype=torch.float32)

    def ids(self, text: str) -> list[int]:
        found: list[int] = self.tokenizer(text, add_special_tokens=False).input_ids
        return found

    @torch.inference_mode()
    def score(self, before: list[int], after: list[int]) -> tuple[float, bool]:
        """The log-probability of tokens after others, and whether each is the likeliest."""
        ids = torch.tensor([before + after])
        logprobs = self.model(ids).logits[0].double().log_softmax(-1)[len(before) - 1 : -1]
        picked = logprobs.gather(-1, ids[0, len(before) :, None])[:, 0]
        return float(picked.sum()), bool((picked == logprobs.amax(-1)).all())

    def choice(self, prompt: str, continuation: str) -> tuple[float, bool]:
        """Of a continuation, as lm-eval asks for it."""
        whole, num_before = self.ids(prompt + continuation), len(self.ids(prompt))
        return self.score(whole[:num_before], whole[num_before:])

    def text(self, text: str) -> float:
        """Of a whole text after a BOS, as lm-eval asks for it."""
        return self.score([self.tokenizer.bos_token_id], self.ids(text))[0]

    @torch.inference_mode()
    def greedy(self, prompt: str, max_new_tokens: int) -> str:
        """The likeliest text, up to its end or the end of its line."""
        ids = torch.tensor([self.tokenizer(prompt).input_ids])
        out = self.model.generate(ids, do_sample=False, max_new_tokens=max_new_tokens)
        text = self.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
        return str(text).split("\n")[0].split(";")[0]
