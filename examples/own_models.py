"""Decode your own target with your own draft: folders or hub names.

python examples/own_models.py path/to/target path/to/draft "A prompt"
"""

import argparse
from collections.abc import Sequence

import mtad


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the completion, and how many tokens each target call gave."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("target")
    parser.add_argument("draft")
    parser.add_argument("prompt")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--max-new-tokens", type=int, default=64)
    options = parser.parse_args(arguments)

    try:
        pair = mtad.load_pair(target=options.target, draft=options.draft, dtype=options.dtype)
    except mtad.MtadError as error:  # the message says what is wrong and what to do
        raise SystemExit(f"error: {error}") from error
    completion = pair.generate(
        options.prompt, mtad.MTAD(), top_k=10, top_p=0.9, max_new_tokens=options.max_new_tokens
    )[0]
    print(completion.text)
    print(
        f"seed {completion.seed}, "
        f"{completion.stats.mean_acceptance_length or 0:.2f} tokens per target call"
    )


if __name__ == "__main__":
    main()
