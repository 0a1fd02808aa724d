"""Show a completion as it grows: one pair of brackets per iteration of MTAD.

    python examples/stream_blocks.py

In [abc|d] the draft's tokens abc were accepted and d is the endpoint token of the target.
"""

import argparse
from collections.abc import Sequence

import mtad
from mtad import demo


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the blocks of one completion, then its text."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("prompt", nargs="?", default=demo.heldout("sql")[0]["prompt"])
    parser.add_argument("--max-new-tokens", type=int, default=96)
    options = parser.parse_args(arguments)

    pair = mtad.load_pair("demo")
    method = mtad.MTAD(num_draft_tokens=4, beam_width=4, accept_threshold=0.5)
    chunks = pair.stream(
        options.prompt, method, temperature=0.0, max_new_tokens=options.max_new_tokens
    )
    print(options.prompt)
    for chunk in chunks:
        block, completion = chunk.block, chunk.completion
        if block:
            tokens = [pair.tokenizer.decode([token]) for token in block.token_ids]
            accepted, endpoint = tokens[: block.num_accepted], tokens[block.num_accepted :]
            print(f"[{''.join(accepted)}|{''.join(endpoint)}]", flush=True)
        if completion:
            print(f"text: {completion.text!r}, ended by: {completion.finish_reason}")


if __name__ == "__main__":
    main()
