"""Multi-token assisted decoding: a target language model decoded with the help of a small draft.

    import mtad
    pair = mtad.load_pair("demo")
    pair.generate(["def area(r):"], method=mtad.MTAD(accept_threshold=0.5), seed=0)[0].text

Names are imported when they are first used, so that `import mtad` stays light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mtad.api.completion import Chunk, Completion
    from mtad.api.pair import ModelPair, load_pair
    from mtad.engine.decode import decode
    from mtad.engine.request import Request
    from mtad.engine.session import Session
    from mtad.engine.stats import Stats
    from mtad.engine.step import Block, Step
    from mtad.errors import MtadError
    from mtad.grammar.grammar import Grammar
    from mtad.methods.autoregressive import Autoregressive
    from mtad.methods.beam_search import BeamSearch
    from mtad.methods.bild import BiLD
    from mtad.methods.block_verification import BlockVerification
    from mtad.methods.cactus import Cactus
    from mtad.methods.cascade import Cascade
    from mtad.methods.fly import FLy
    from mtad.methods.gbv import GBV
    from mtad.methods.joint_greedy import JointGreedy
    from mtad.methods.margin import Margin
    from mtad.methods.mcss import MCSS
    from mtad.methods.mmtad import MMTAD
    from mtad.methods.mtad import MTAD
    from mtad.methods.mtjd import MTJD
    from mtad.methods.prompt_lookup import PromptLookup
    from mtad.methods.specinfer import SpecInfer
    from mtad.methods.spectr import SpecTr
    from mtad.methods.speculative_beam import SpeculativeBeam
    from mtad.methods.speculative_sampling import SpeculativeSampling
    from mtad.methods.suffix import Suffix
    from mtad.methods.typical_acceptance import TypicalAcceptance
    from mtad.sampling.params import SamplingParams
    from mtad.speculative.method import Method, Verdict

__version__ = "0.1.0"

_HOME = {
    "engine.request": ("Request",),
    "engine.decode": ("decode",),
    "engine.session": ("Session",),
    "engine.step": ("Block", "Step"),
    "errors": ("MtadError",),
    "grammar.grammar": ("Grammar",),
    "speculative.method": ("Method", "Verdict"),
    "methods.autoregressive": ("Autoregressive",),
    "methods.beam_search": ("BeamSearch",),
    "methods.bild": ("BiLD",),
    "methods.block_verification": ("BlockVerification",),
    "methods.cactus": ("Cactus",),
    "methods.cascade": ("Cascade",),
    "methods.fly": ("FLy",),
    "methods.gbv": ("GBV",),
    "methods.joint_greedy": ("JointGreedy",),
    "methods.margin": ("Margin",),
    "methods.mcss": ("MCSS",),
    "methods.mmtad": ("MMTAD",),
    "methods.mtad": ("MTAD",),
    "methods.mtjd": ("MTJD",),
    "methods.prompt_lookup": ("PromptLookup",),
    "methods.specinfer": ("SpecInfer",),
    "methods.spectr": ("SpecTr",),
    "methods.speculative_beam": ("SpeculativeBeam",),
    "methods.speculative_sampling": ("SpeculativeSampling",),
    "methods.suffix": ("Suffix",),
    "methods.typical_acceptance": ("TypicalAcceptance",),
    "api.completion": ("Chunk", "Completion"),
    "api.pair": ("ModelPair", "load_pair"),
    "sampling.params": ("SamplingParams",),
    "engine.stats": ("Stats",),
}
_WHERE = {name: module for module, names in _HOME.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'mtad' has no attribute {name!r}")
    return getattr(importlib.import_module(f"mtad.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return __all__


__all__ = [
    "GBV",
    "MCSS",
    "MMTAD",
    "MTAD",
    "MTJD",
    "Autoregressive",
    "BeamSearch",
    "BiLD",
    "Block",
    "BlockVerification",
    "Cactus",
    "Cascade",
    "Chunk",
    "Completion",
    "FLy",
    "Grammar",
    "JointGreedy",
    "Margin",
    "Method",
    "ModelPair",
    "MtadError",
    "PromptLookup",
    "Request",
    "SamplingParams",
    "Session",
    "SpecInfer",
    "SpecTr",
    "SpeculativeBeam",
    "SpeculativeSampling",
    "Stats",
    "Step",
    "Suffix",
    "TypicalAcceptance",
    "Verdict",
    "__version__",
    "decode",
    "load_pair",
]
