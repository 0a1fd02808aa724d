"""The settings of the recipe: sizes, steps, seeds; everything a result depends on."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Shape:
    """A Llama model's size and how it is trained.

    `phase_steps` are the steps at which the phases of the data begin; in the last
    `num_decay_steps` the learning rate falls to zero.
    """

    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    phase_steps: tuple[int, ...]
    num_steps: int
    num_decay_steps: int
    learning_rate: float
    autocast: bool = False

    def shorter(self) -> "Shape":
        """An eighth of the steps at half the rate, to train a finished model further."""
        steps, rate = max(1, self.num_steps // 8), self.learning_rate / 2
        whole = replace(self, num_steps=steps, num_decay_steps=steps, learning_rate=rate)
        return replace(whole, phase_steps=(0,))


@dataclass(frozen=True)
class Phase:
    """A part of the training data: its size and the odds of the tasks."""

    num_examples: int
    odds: dict[str, float]


BALANCED = {"sql": 5.0, "python": 2.0, "chat": 3.0}
COPYING = {"sql": 4.0, "python": 1.0, "chat": 4.0, "drill": 1.5}

ANSWERING = {"sql": 5.0, "python": 1.5, "answering": 4.0}


@dataclass(frozen=True)
class Preset:
    """One setting of the whole recipe."""

    name: str
    target: Shape
    draft: Shape
    phases: tuple[Phase, ...]
    batch_tokens: int = 3840
    bins: tuple[int, ...] = (64, 80, 96, 128, 160, 192)
    vocab_size: int = 2048
    num_tokenizer_examples: int = 20_000
    noise: float = 0.2
    num_heldout: int = 180
    num_heldout_unseen_words: int = 100
    num_sampling_seeds: int = 3
    checkpoint_steps: int = 500
    seed: int = 0

    def clean(self) -> "Preset":
        """A continuation on answers free of noise, started from the models of this preset."""
        last = self.phases[-1]
        return replace(
            self,
            name=f"{self.name}-clean",
            target=self.target.shorter(),
            draft=self.draft.shorter(),
            phases=(replace(last, num_examples=max(1, last.num_examples // 3)),),
            noise=0.0,
        )


PRESETS = {
    preset.name: preset
    for preset in (
        Preset(
            "cpu",
            Shape(256, 4, 4, 704, (0, 3500, 5000), 6500, 2275, 1.5e-3, autocast=True),
            Shape(64, 2, 2, 192, (0, 380, 650), 1100, 450, 4e-3),
            phases=(Phase(440_000, BALANCED), Phase(140_000, COPYING), Phase(75_000, ANSWERING)),
        ),
        Preset(
            "gpu",
            Shape(320, 6, 5, 864, (0, 8000, 24_000), 40_000, 14_000, 1.5e-3, autocast=True),
            Shape(64, 2, 2, 192, (0, 4000, 8000), 14_000, 5000, 4e-3, autocast=True),
            phases=(
                Phase(1_000_000, BALANCED),
                Phase(2_000_000, COPYING),
                Phase(2_000_000, ANSWERING),
            ),
            batch_tokens=15_360,
        ),
        Preset(
            "smoke",
            Shape(32, 1, 2, 64, (0, 2, 4), 6, 2, 2e-3),
            Shape(16, 1, 2, 32, (0, 2, 4), 6, 2, 2e-3),
            phases=(Phase(80, BALANCED), Phase(60, COPYING), Phase(60, ANSWERING)),
            batch_tokens=768,
            vocab_size=512,
            num_tokenizer_examples=120,
            num_heldout=2,
            num_heldout_unseen_words=2,
            num_sampling_seeds=1,
            checkpoint_steps=2,
            bins=(192, 256),
        ),
    )
}
