"""Models of some of another's layers, with some of its tokens."""

import copy
import json

import pytest
import torch
from support.tiny import ARCHITECTURES, VOCAB, tiny_model

from mtad.errors import UnsupportedModelError
from mtad.model.loading import load_model
from mtad.model.shallow import layer_list, shallow, spread
from mtad.model.trimmed import stood_for
from mtad.model.trimmed_folder import save_trimmed
from mtad.runtime.linear.formats import BF16, convert
from mtad.testing import random_llama

TEXT = torch.tensor([[3, 5, 7, 3, 9, 11, 2, 1]])
SOME = torch.arange(1, VOCAB, 3)
WITH_A_LIST = sorted(set(ARCHITECTURES) - {"phi"})


def logits_of(model):
    with torch.inference_mode():
        return model(input_ids=TEXT).logits


@pytest.mark.parametrize("name", WITH_A_LIST)
def test_all_layers_say_what_the_model_says(name):
    model = tiny_model(name)
    whole = shallow(model, [0, 1], SOME)
    torch.testing.assert_close(logits_of(whole), logits_of(model)[..., SOME])
    assert stood_for(whole).tolist() == SOME.tolist()


def test_layers_are_those_of_the_model_and_the_model_stays():
    model = random_llama(num_layers=5)
    before, small = copy.deepcopy(model.state_dict()), shallow(model, [0, 3], SOME)
    ours, theirs = small.state_dict(), model.state_dict()
    assert small.config.num_hidden_layers == 2 and model.config.num_hidden_layers == 5
    for own, layer in ((0, 0), (1, 3)):
        for kind in ("self_attn.q_proj", "mlp.down_proj", "input_layernorm"):
            name = f"model.layers.%d.{kind}.weight"
            assert torch.equal(ours[name % own], theirs[name % layer]), name
    with torch.no_grad():
        small.model.layers[1].mlp.down_proj.weight.zero_()
        small.model.embed_tokens.weight.zero_()
    assert all(torch.equal(value, before[name]) for name, value in theirs.items())


def test_what_a_config_says_of_each_layer_goes_with_it():
    model = tiny_model("gemma3_text")
    assert model.config.layer_types == ["sliding_attention", "full_attention"]
    assert shallow(model, [1], SOME).config.layer_types == ["full_attention"]


def test_a_packed_model_gives_the_same():
    plain = random_llama(vocab=2000, hidden=64).bfloat16()
    laid_out = copy.deepcopy(plain)
    assert convert(laid_out, BF16).kernels
    ours, theirs = (shallow(model, [1], SOME).state_dict() for model in (plain, laid_out))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_layers_are_spread_from_the_first_to_the_last():
    assert [spread(count, 30) for count in (1, 2, 3, 4)] == [
        [0],
        [0, 29],
        [0, 15, 29],
        [0, 10, 19, 29],
    ]
    assert spread(3, 3) == [0, 1, 2]
    with pytest.raises(ValueError, match=r"num_layers is 4, and the target has 3; .* 1 to 3"):
        spread(4, 3)


def test_models_that_cannot_be_taken_apart():
    with pytest.raises(UnsupportedModelError, match=r"'phi': its output head has a bias.*--kind"):
        shallow(tiny_model("phi"), [0], SOME)
    twice = random_llama()
    twice.model.others = torch.nn.ModuleList([torch.nn.Identity(), torch.nn.Identity()])
    with pytest.raises(UnsupportedModelError, match="lists of modules, 2 are as long"):
        layer_list(twice)
    other = random_llama()
    other.model.layers[1].mlp.up_proj = torch.nn.Identity()
    with pytest.raises(UnsupportedModelError, match=r"layers\.1\.mlp\.up_proj\.weight is not"):
        shallow(other, [1], SOME)


@pytest.mark.parametrize("name", ["llama", "gpt_neox"])
def test_saved_and_loaded_it_is_the_same(name, tmp_path):
    small = shallow(tiny_model(name).bfloat16(), [1], SOME)
    for weight in small.parameters():
        weight.data = weight.data.bfloat16()
    save_trimmed(small, tmp_path, VOCAB)
    loaded = load_model(tmp_path, "draft", "auto", "cpu")
    assert loaded.dtype == torch.bfloat16
    assert stood_for(loaded).tolist() == SOME.tolist()
    assert torch.equal(logits_of(loaded), logits_of(small))
    assert json.loads((tmp_path / "config.json").read_text())["draft_vocab_size"] == len(SOME)
