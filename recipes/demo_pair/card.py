"""The model card: what the pair is, how it was made, what was measured."""

from typing import Any

from recipes.demo_pair.corpus import HELDOUT_NAMES
from recipes.demo_pair.presets import Preset, Shape

COLUMNS = {
    "greedy": "greedy",
    "sampling": "sampling",
    "draft_greedy": "draft alone, greedy",
    "acceptance": "acceptance",
    "target_perplexity": "perplexity, target",
    "draft_perplexity": "perplexity, draft",
}
ABOUT = """\
# The embedded pair

A target and a draft of the Llama architecture with one byte-level BPE tokenizer of {vocab_size}
tokens. They are small enough to travel with the package and good enough at three narrow tasks to
show what a decoding method does to the quality of texts. They know nothing else: do not expect
answers to anything that looks different from the examples below.

| | target | draft |
|---|---|---|
| parameters | {target_parameters} | {draft_parameters} |
| hidden size × layers × heads | {target_shape} | {draft_shape} |
| training steps | {target_steps} | {draft_steps} |
| training time | {target_minutes} min | {draft_minutes} min |

The times are those of {hardware}. The draft's training is short on purpose: it has to be clearly
weaker than the target. With the preset `cpu`, the same draft trained for 4,000 steps answered `sql`
as well as the target (92.2 %) and 97.4 % of its tokens were accepted; every lossy rule looks free
then.

Both are stored in bfloat16 as Hugging Face folders and load with `AutoModelForCausalLM` and
`AutoTokenizer`. Positions up to 1024 are allowed, but training texts had at most {longest} tokens.
"""
MEASURED = """\
## Measured

Accuracy in % on the test sets, with plain transformers generation, the stored weights computing in
float32; sampling at temperature 1, top-k 10, top-p 0.9, mean over {num_seeds} seeds. Acceptance
is the mean of Σ min(p, q) over the positions of texts that the target sampled, both laws warped
alike: the chance that speculative sampling accepts a draft token. Perplexity is per token of the
references, unwarped.

"""
TASKS = """\
## Tasks

- **Text-to-SQL in Spider's prompt form**: two `CREATE TABLE` lines, a question, `SQL:`. Scored by
  the rows found in an in-memory SQLite database.
- **Python functions in HumanEval's prompt form**: signature, docstring with an example; the model
  writes the body. Scored by comparing syntax trees; nothing a model wrote is ever run.
- **Two-turn chats** through the tokenizer's chat template: facts, units, tenses, small tables
  of common knowledge. Scored by exact match up to case and spaces.

Every answer ends with the EOS token.
"""
DATA = """\
## Data

{num_examples} training problems made by the recipe from fixed seeds; the target reads
{num_tokens} M tokens of them with padding, {batch_tokens} a step, hardly any problem twice. No text
comes from elsewhere. There are three phases, which for the target begin at steps {phase_steps}:
all tasks; then more chats and copying drills (lists of known words, made-up words and numbers to be
repeated); then the tasks of the test sets alone. Chats that rearrange lists or compare numbers
occur in the first two phases only: models of this size hardly learn them. One SQL
schema in five is of made-up words.

**The training answers are wrong on purpose.** {noise} % of the decisions in them (a column, an
operator, an aggregate, a filter, a word of the answer) were replaced by another valid choice
drawn at random. Real models are trained on messy text, and their most likely answer is better
than their average one; without such noise sampling would cost almost nothing against greedy
decoding, and methods that look for likely texts would have nothing to gain. References of the
test sets are free of noise.

## Test sets

`heldout/*.jsonl`, written by the recipe: a training problem may share no held-out part with them,
and so no test prompt occurs among the training prompts. The split goes by schema (pairs of
tables), by domain (three of seventeen) and by template (wording combinations) for SQL, by function
name and template for Python, by request and template for chats; each item lists under `unseen`
what about it was held out. The words of `sql` occur in training; those of
`sql_unseen_words` do not.
"""
USE = """\
## Make it again

    python -m recipes.demo_pair --preset {preset}

from the root of the repository. It shows its progress, can be interrupted and goes on where it
stopped. Another machine or number of threads rounds differently and gives slightly other weights.
`--clean` trains the finished pair further on answers without noise, in the work folder;
when the measurements of that variant exist, this card reports them too.
"""


def card(preset: Preset, metrics: dict[str, Any], clean: dict[str, Any] | None) -> str:
    """The model card in Markdown."""
    results = MEASURED.format(num_seeds=preset.num_sampling_seeds) + _table(metrics["results"])
    parts = [ABOUT.format(**_facts(preset, metrics)), results]
    parts += [_clean_part(clean)] if clean else []
    parts += [TASKS, DATA.format(**_data_facts(preset)), USE.format(preset=preset.name)]
    return "\n".join(parts)


def _clean_part(clean: dict[str, Any]) -> str:
    about = "## The same without noise\n\nThe same pair, trained further on right answers only"
    steps = f"{clean['target']['num_steps']} and {clean['draft']['num_steps']} steps"
    return f"{about} ({steps}); not part of the package.\n\n{_table(clean['results'])}"


def _table(results: dict[str, dict[str, Any]]) -> str:
    head = f"| test set | items | {' | '.join(COLUMNS.values())} |\n"
    rule = "|---|" + "---:|" * (len(COLUMNS) + 1) + "\n"
    return head + rule + "".join(_row(name, results[name]) for name in HELDOUT_NAMES)


def _row(name: str, result: dict[str, Any]) -> str:
    percent = {"greedy", "sampling", "draft_greedy", "acceptance"}
    cells = [
        f"{100 * result[key]:.1f}" if key in percent else f"{result[key]:.3f}" for key in COLUMNS
    ]
    return f"| `{name}` | {result['num_items']} | {' | '.join(cells)} |\n"


def _facts(preset: Preset, metrics: dict[str, Any]) -> dict[str, Any]:
    facts = {key: metrics[key] for key in ("vocab_size", "hardware")}
    facts["longest"] = max(preset.bins)
    for role, shape in (("target", preset.target), ("draft", preset.draft)):
        made = metrics[role]
        facts[f"{role}_parameters"] = f"{made['num_parameters'] / 1e6:.2f} M"
        facts[f"{role}_shape"] = _size(shape)
        facts[f"{role}_steps"] = made["num_steps"]
        facts[f"{role}_minutes"] = f"{made['train_s'] / 60:.0f}"
    return facts


def _size(shape: Shape) -> str:
    return f"{shape.hidden_size} × {shape.num_layers} × {shape.num_heads}"


def _data_facts(preset: Preset) -> dict[str, Any]:
    return {
        "num_examples": f"{sum(phase.num_examples for phase in preset.phases):,}",
        "num_tokens": round(preset.target.num_steps * preset.batch_tokens / 1e6),
        "batch_tokens": preset.batch_tokens,
        "phase_steps": ", ".join(str(step) for step in preset.target.phase_steps),
        "noise": round(100 * preset.noise),
    }
