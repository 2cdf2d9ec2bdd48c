"""Models of transformers in a size at which each takes a second: random weights, no download."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["TINY", "Tiny", "logits", "network"]

Input = Tensor | tuple[Tensor | None, ...]


class Tiny(NamedTuple):
    """What a model is made of.

    Attributes:
        model: Its class in transformers; the class of its configuration is the model's own.
        options: Of the configuration.
        takes: ``words``, ``words twice`` (for the encoder and for the decoder), ``pixels``,
            ``waves`` or ``spectra``.
    """

    model: str
    options: dict[str, Any]
    takes: str = "words"


_HEADS = {"num_attention_heads": 2}
_SHARED = {"num_attention_heads": 4, "num_key_value_heads": 2}  # two heads read the same keys
_BLOCKS = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
_WORDS = {"vocab_size": 40, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_TEXT = {**_WORDS, "max_position_embeddings": 16}
_ENCODER, _DECODER = {**_BLOCKS, **_TEXT, **_HEADS}, {**_BLOCKS, **_TEXT, **_SHARED}
_VIT = {**_BLOCKS, **_HEADS, "image_size": 16, "patch_size": 8}
_STAGES = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
_BOTH = {
    **_TEXT, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24,
    "decoder_start_token_id": 0,
}  # fmt: skip

#: By name, in the order of language models, vision, sound.
TINY = {
    "gpt2": Tiny("GPT2LMHeadModel",
                 {**_WORDS, "n_positions": 16, "n_embd": 16, "n_layer": 2, "n_head": 2}),
    "gptj": Tiny("GPTJForCausalLM", {**_WORDS, "n_positions": 16, "n_embd": 16, "n_layer": 2,
                                     "n_head": 2, "rotary_dim": 4}),
    "gpt_neo": Tiny("GPTNeoForCausalLM", {**_TEXT, "hidden_size": 16, "num_layers": 2,
                                          "num_heads": 2,
                                          "attention_types": [[["global", "local"], 1]]}),
    "gpt_neox": Tiny("GPTNeoXForCausalLM", _ENCODER),
    "opt": Tiny("OPTForCausalLM", {**_TEXT, **_HEADS, "hidden_size": 16, "ffn_dim": 24,
                                   "num_hidden_layers": 2, "word_embed_proj_dim": 16}),
    "bloom": Tiny("BloomForCausalLM", {**_WORDS, "hidden_size": 16, "n_layer": 2, "n_head": 2}),
    "falcon": Tiny("FalconForCausalLM",
                   {**_WORDS, **_HEADS, "hidden_size": 16, "num_hidden_layers": 2}),
    "mpt": Tiny("MptForCausalLM",
                {**_WORDS, "d_model": 16, "n_layers": 2, "n_heads": 2, "max_seq_len": 16}),
    "llama": Tiny("LlamaForCausalLM", _DECODER),
    "mistral": Tiny("MistralForCausalLM", _DECODER),
    "mixtral": Tiny("MixtralForCausalLM", {**_DECODER, "num_local_experts": 2}),
    "qwen2": Tiny("Qwen2ForCausalLM", _DECODER),
    "qwen3": Tiny("Qwen3ForCausalLM", {**_DECODER, "head_dim": 4}),
    "gemma": Tiny("GemmaForCausalLM", {**_DECODER, "head_dim": 4}),
    "gemma2": Tiny("Gemma2ForCausalLM", {**_DECODER, "head_dim": 4}),
    "phi": Tiny("PhiForCausalLM", _ENCODER),
    "phi3": Tiny("Phi3ForCausalLM", _ENCODER),
    "olmo2": Tiny("Olmo2ForCausalLM", _DECODER),
    "cohere": Tiny("CohereForCausalLM", _DECODER),
    "granite": Tiny("GraniteForCausalLM", _DECODER),
    "stablelm": Tiny("StableLmForCausalLM", _DECODER),
    "starcoder2": Tiny("Starcoder2ForCausalLM", _DECODER),
    "smollm3": Tiny("SmolLM3ForCausalLM", _DECODER),
    "mamba": Tiny("MambaForCausalLM", {**_WORDS, "hidden_size": 16, "num_hidden_layers": 2,
                                       "state_size": 4}),
    "bert": Tiny("BertForSequenceClassification", _ENCODER),
    "distilbert": Tiny("DistilBertForSequenceClassification",
                       {**_TEXT, "dim": 16, "hidden_dim": 24, "n_layers": 2, "n_heads": 2}),
    "roberta": Tiny("RobertaForSequenceClassification",
                    {**_ENCODER, "max_position_embeddings": 20}),
    "electra": Tiny("ElectraForSequenceClassification", {**_ENCODER, "embedding_size": 16}),
    "albert": Tiny("AlbertForSequenceClassification", {**_ENCODER, "embedding_size": 8}),
    "deberta_v2": Tiny("DebertaV2ForSequenceClassification",
                       {**_ENCODER, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]}),
    "mobilebert": Tiny("MobileBertForSequenceClassification",
                       {**_ENCODER, "embedding_size": 16, "intra_bottleneck_size": 16,
                        "true_hidden_size": 16}),
    "fnet": Tiny("FNetForSequenceClassification", {**_BLOCKS, **_TEXT}),
    "xlnet": Tiny("XLNetForSequenceClassification",
                  {**_WORDS, "d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 24}),
    "t5": Tiny("T5ForConditionalGeneration",
               {**_WORDS, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2,
                "decoder_start_token_id": 0}, "words twice"),
    "bart": Tiny("BartForConditionalGeneration", _BOTH),
    "marian": Tiny("MarianMTModel", _BOTH, "words twice"),
    "vit": Tiny("ViTForImageClassification", _VIT, "pixels"),
    "deit": Tiny("DeiTForImageClassification", _VIT, "pixels"),
    "beit": Tiny("BeitForImageClassification",
                 {**_VIT, "use_relative_position_bias": True}, "pixels"),
    "dinov2": Tiny("Dinov2ForImageClassification", {k: v for k, v in _VIT.items()
                                                    if k != "intermediate_size"}, "pixels"),
    "clip": Tiny("CLIPForImageClassification", {"vision_config": _VIT}, "pixels"),
    "siglip": Tiny("SiglipForImageClassification", {"vision_config": _VIT}, "pixels"),
    "swin": Tiny("SwinForImageClassification",
                 {"image_size": 16, "patch_size": 2, "embed_dim": 8, "depths": [1, 1],
                  "num_heads": [2, 2], "window_size": 2}, "pixels"),
    "segformer": Tiny("SegformerForImageClassification",
                      {"num_encoder_blocks": 2, "depths": [1, 1], "sr_ratios": [2, 1],
                       "hidden_sizes": [8, 16], "patch_sizes": [7, 3], "strides": [4, 2],
                       "num_attention_heads": [1, 2], "mlp_ratios": [2, 2],
                       "decoder_hidden_size": 8}, "pixels"),
    "mobilevit": Tiny("MobileViTForImageClassification",
                      {**_HEADS, "image_size": 64, "hidden_sizes": [8, 12, 16],
                       "neck_hidden_sizes": [4, 8, 8, 8, 8, 8, 16]}, "pixels"),
    "convnext": Tiny("ConvNextForImageClassification",
                     {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2}, "pixels"),
    "resnet": Tiny("ResNetForImageClassification", _STAGES, "pixels"),
    "regnet": Tiny("RegNetForImageClassification", {**_STAGES, "groups_width": 4}, "pixels"),
    "bit": Tiny("BitForImageClassification", {**_STAGES, "num_groups": 2}, "pixels"),
    "wav2vec2": Tiny("Wav2Vec2ForSequenceClassification",
                     {**_BLOCKS, **_HEADS, "vocab_size": 20, "conv_dim": [8, 8],
                      "conv_stride": [4, 4], "conv_kernel": [8, 4], "num_feat_extract_layers": 2,
                      "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2,
                      "classifier_proj_size": 8}, "waves"),
    "whisper": Tiny("WhisperForAudioClassification",
                    {**_BOTH, "num_mel_bins": 8, "max_source_positions": 8,
                     "classifier_proj_size": 8}, "spectra"),
}  # fmt: skip


def logits(output: Any) -> Any:
    """Of what a model of transformers returns, the part that counts."""
    return output.logits


def network(name: str) -> tuple[nn.Module, Input]:
    """A model at its tiny configuration, always with the same random weights, and an input.

    Args:
        name: In `TINY`.

    Returns:
        The model in evaluation mode, and what it takes, of a batch of two.
    """
    import transformers  # in the extra `models`; it imports torchvision, which goes first

    tiny = TINY[name]
    kind = getattr(transformers, tiny.model)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = kind(kind.config_class(**tiny.options)).eval()
    return model, _input(tiny)


def _input(tiny: Tiny) -> Input:
    """Zeros, or words that differ: (2, channels, side, side), (2, length) or (2, bands, length)."""
    words = torch.arange(12).view(2, 6) * 7 % 37 + 3
    side = tiny.options.get("vision_config", tiny.options).get("image_size", 32)
    inputs: dict[str, Input] = {
        "words": words,
        "words twice": (words, None, words.flip(1)),  # between the two is a mask
        "pixels": torch.zeros(2, 3, side, side),
        "waves": torch.zeros(2, 400),
        "spectra": torch.zeros(2, 8, 16),
    }
    return inputs[tiny.takes]
