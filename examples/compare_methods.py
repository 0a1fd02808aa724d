"""Run several methods on the same questions and print acceptance, speed and right answers.

    python examples/compare_methods.py --num-prompts 20

This is a demonstration on the embedded pair, not a benchmark: one run, no warm-up, few questions.
"""

import argparse
from collections.abc import Sequence

import mtad
from mtad import demo
from mtad.demo.scoring import score
from mtad.engine.stats import total

METHODS = [
    mtad.Autoregressive(),
    mtad.SpeculativeSampling(num_draft_tokens=4),
    mtad.BlockVerification(num_draft_tokens=4),
    mtad.MCSS(k_config=(4, 2, 2)),
    mtad.MTAD(accept_threshold=0.5),
    mtad.MMTAD(accept_threshold=0.5),
]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one line per method."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--num-prompts", type=int, default=10)
    parser.add_argument("--max-new-tokens", type=int, default=64)
    options = parser.parse_args(arguments)

    pair = mtad.load_pair("demo")
    items = demo.heldout("sql")[: options.num_prompts]
    prompts = [item["prompt"] for item in items]
    print(f"{'method':<22}{'contract':<10}{'tokens per call':>16}{'tokens/s':>10}{'right':>7}")
    for method in METHODS:
        completions = pair.generate(
            prompts,
            method,
            top_k=10,
            top_p=0.9,
            max_new_tokens=options.max_new_tokens,
            seed=range(len(prompts)),
            max_batch_size=1,
        )
        stats = total(completion.stats for completion in completions)
        right = sum(score(i, c.text) for i, c in zip(items, completions, strict=True))
        kind = "lossless" if method.is_lossless else "lossy"
        speed = stats.output_tokens_per_second or 0.0
        length = stats.mean_acceptance_length or 0.0
        print(
            f"{method.name:<22}{kind:<10}{length:>16.2f}{speed:>10.1f}{f'{right}/{len(items)}':>7}",
            flush=True,
        )


if __name__ == "__main__":
    main()
