"""The model types of transformers that become universal models, each with its translator."""

from __future__ import annotations

from collections.abc import Mapping

from lts_ray.models.family import LLAMA, MISTRAL, QWEN2, QWEN3
from lts_ray.models.matformer.hugging_face.gpt2_translator import GPT2Translator
from lts_ray.models.matformer.hugging_face.llama_translator import LlamaTranslator
from lts_ray.models.matformer.hugging_face.opt_translator import OPTTranslator
from lts_ray.models.matformer.hugging_face.translator import Translator

ATTENTION = ("qkv_bias", "out_bias")
ALL: tuple[Translator, ...] = (
    LlamaTranslator(
        family=LLAMA,
        architecture="LlamaForCausalLM",
        bias_keys={"attention_bias": ATTENTION, "mlp_bias": ("ffn_bias",)},
    ),
    LlamaTranslator(family=QWEN2, architecture="Qwen2ForCausalLM", bias_keys={}),
    LlamaTranslator(
        family=QWEN3, architecture="Qwen3ForCausalLM", default_head_dim=128, bias_keys={"attention_bias": ATTENTION}
    ),
    LlamaTranslator(family=MISTRAL, architecture="MistralForCausalLM", bias_keys={}),
    GPT2Translator(),
    OPTTranslator(),
)
TRANSLATORS: Mapping[str, Translator] = {translator.family.name: translator for translator in ALL}
"""By model type, which is the family's name."""
