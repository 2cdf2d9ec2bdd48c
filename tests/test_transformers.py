"""Language models and transformers as people have them: tiny configurations, nothing downloaded.

They need ``pip install toroid[models]``; without it these tests are skipped.
"""

import pytest
import torch
import toroid
from networks import gap, random_element, random_signs
from toroid import _torchvision
from toroid.book import measures, tiny
from toroid.symmetry._labels import OWN

_torchvision.load()  # transformers imports it
transformers = pytest.importorskip("transformers")

TOKENS, IMAGE = torch.randint(40, (2, 6)), torch.zeros(2, 3, 16, 16)
SMALL = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
TEXT = {"vocab_size": 40, "max_position_embeddings": 16}

# name: (model, config, example, units of the stream, tolerance)
MODELS = {
    "GPT-2": ("GPT2LMHeadModel", "GPT2Config",
              {"vocab_size": 40, "n_positions": 16, "n_embd": 16, "n_layer": 2, "n_head": 2}, TOKENS),
    "Llama": ("LlamaForCausalLM", "LlamaConfig",
              {**SMALL, **TEXT, "num_attention_heads": 4, "num_key_value_heads": 2}, TOKENS),
    "tied Llama": ("LlamaForCausalLM", "LlamaConfig",
                   {**SMALL, **TEXT, "num_attention_heads": 2, "tie_word_embeddings": True}, TOKENS),
    "BERT": ("BertForSequenceClassification", "BertConfig",
             {**SMALL, **TEXT, "num_attention_heads": 2}, TOKENS),
    "BERT with a tied head": ("BertForMaskedLM", "BertConfig",
                              {**SMALL, **TEXT, "num_attention_heads": 2}, TOKENS),
    "DistilBERT": ("DistilBertForSequenceClassification", "DistilBertConfig",
                   {**TEXT, "dim": 16, "hidden_dim": 24, "n_layers": 2, "n_heads": 2}, TOKENS),
    "ViT": ("ViTForImageClassification", "ViTConfig",
            {**SMALL, "num_attention_heads": 2, "image_size": 16, "patch_size": 8}, IMAGE),
}  # fmt: skip


def double(state):
    return {k: v.double() if v.is_floating_point() else v for k, v in state.items()}


@pytest.mark.parametrize("name", MODELS)
def test_a_transformer_is_understood_and_exact(name):
    kind, config, options, example = MODELS[name]
    torch.manual_seed(0)
    model = getattr(transformers, kind)(getattr(transformers, config)(**options))
    symmetry = toroid.find_symmetries(model, example, outputs=tiny.logits)
    assert symmetry.refused == ()
    assert symmetry.groups[0].size == 16  # the stream
    assert {stay.why for stay in symmetry.stays} <= set(OWN)
    hidden = [g for g in symmetry.groups if g.size == 24 or g.size == 64]
    assert len(hidden) == 2  # of the two blocks
    state, x = (
        double(model.state_dict()),
        example.double() if example.is_floating_point() else example,
    )
    permutations, factors = random_element(symmetry, 0, spread=0.3)
    moved = toroid.permute(toroid.rescale(state, factors, symmetry), permutations, symmetry)
    moved = toroid.flip(moved, random_signs(symmetry, 0), symmetry)
    # a Llama's norms cast to float32 whatever the state
    tolerance = 1e-5 if "Llama" in name else 1e-10
    normal = toroid.normalize(moved, symmetry)
    for other in (moved, normal):
        report = toroid.same_function(
            model, state, other, x, tolerance=tolerance, outputs=tiny.logits
        )
        assert report, report
    assert gap(toroid.normalize(normal, symmetry), normal) < 1e-12


def test_a_tied_embedding_and_head_stay_one():
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**MODELS["GPT-2"][2]))
    symmetry = toroid.find_symmetries(model, TOKENS, outputs=tiny.logits)
    permutations, factors = random_element(symmetry, 1)
    state = double(model.state_dict())
    moved = toroid.permute(toroid.rescale(state, factors, symmetry), permutations, symmetry)
    assert not torch.equal(moved["lm_head.weight"], state["lm_head.weight"])
    assert torch.equal(moved["lm_head.weight"], moved["transformer.wte.weight"])


def test_the_book_has_models_that_there_are():
    for made in tiny.TINY.values():
        assert hasattr(transformers, made.model)
    before = torch.random.get_rng_state()
    (one, x), (other, _) = tiny.network("bert"), tiny.network("bert")
    assert torch.equal(before, torch.random.get_rng_state())
    assert not one.training
    assert gap(one.state_dict(), other.state_dict()) == 0
    assert len(x.unique()) == x.numel() == 12
    assert x.max() < tiny.TINY["bert"].options["vocab_size"]


@pytest.mark.parametrize("name", ["t5", "clip", "whisper", "gpt2"])
def test_a_model_of_the_book_is_understood_and_exact(name):
    """One for each kind of input, and tied weights."""
    model, example = tiny.network(name)
    symmetry = toroid.find_symmetries(model, example, outputs=tiny.logits, verify=False)
    assert sum(group.size for group in symmetry.groups) > 90
    assert measures.outside(model, symmetry, example, tiny.logits) == {}
    generator = torch.Generator().manual_seed(0)
    state = measures.random_state(model, generator)
    permutations, factors, signs = measures.random_element(symmetry, generator, spread=0.3)
    copy = toroid.rescale(state, factors, symmetry)
    copy = measures.moved(copy, permutations, signs, symmetry)
    assert gap(copy, state) > 0.1
    tolerance = 1e-5 if name == "t5" else 1e-10  # its norms cast to float32
    assert toroid.same_function(
        model, state, copy, example, tolerance=tolerance, outputs=tiny.logits
    )


def test_a_model_of_the_book_is_refused_by_name():
    model, words = tiny.network("fnet")
    with pytest.raises(toroid.UnsupportedError, match="'fft_fftn' is not understood"):
        toroid.find_symmetries(model, words, outputs=tiny.logits)
