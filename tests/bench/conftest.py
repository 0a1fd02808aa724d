"""Models that the tests of benchmarks share, each loaded once for all of them."""

from __future__ import annotations

import pytest

from mtad.api.pair import ModelPair, load_pair
from mtad.bench.plan import PairSpec
from mtad.bench.speed import limits, models
from mtad.bench.speed.models import Loaded
from mtad.runtime.cuda_graphs import Graphs

EAGER = "recording takes longer than these short texts"


@pytest.fixture(scope="session")
def demo_pair() -> ModelPair:
    """The embedded pair, decoding eagerly."""
    pair = load_pair("demo", dtype="float32")
    pair.graphs = Graphs(None, EAGER)
    return pair


@pytest.fixture(scope="session")
def loaded() -> Loaded:
    """The embedded pair, decoding eagerly, and its plain copy; the limits are of small buffers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(limits.MEMORY_BYTES, "cpu", 2**22)
        patch.setitem(limits.MATRIX_SIZE, "cpu", 64)
        patch.setattr(limits, "NUM_TRIES", 1)
        pair, plain = models.models_for(PairSpec())
        pair.graphs = Graphs(None, EAGER)
        return Loaded("demo", pair, plain, models.measured_cost(plain, memory_bytes=2**22))
