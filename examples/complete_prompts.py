"""Complete the prompts of a JSONL file, or of a test set that comes with the embedded pair.

python examples/complete_prompts.py
python examples/complete_prompts.py prompts.jsonl --max-new-tokens 64
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import mtad
from mtad import demo


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one completion per prompt, then what the draft contributed to it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("file", nargs="?", type=Path, help='lines like {"prompt": "..."}')
    parser.add_argument("--num-prompts", type=int, default=3)
    parser.add_argument("--max-new-tokens", type=int, default=96)
    options = parser.parse_args(arguments)

    lines = options.file.read_text(encoding="utf-8").split("\n") if options.file else []
    items = [json.loads(line) for line in lines if line] or demo.heldout("python")
    prompts = [item["prompt"] for item in items[: options.num_prompts]]

    pair = mtad.load_pair("demo")
    completions = pair.generate(
        prompts, top_k=10, top_p=0.9, max_new_tokens=options.max_new_tokens, seed=0
    )
    for prompt, completion in zip(prompts, completions, strict=True):
        stats = completion.stats
        print(prompt + completion.text)
        print(
            f"# {stats.num_output_tokens} tokens in {stats.num_spec_steps} target calls, "
            f"mean acceptance length {stats.mean_acceptance_length:.2f}, "
            f"ended by: {completion.finish_reason}\n"
        )


if __name__ == "__main__":
    main()
