"""The universal model: a decoder whose FFN blocks nest: any width per layer runs from one set of weights.

Its attention heads and its d_model nest as well, wherever a submodel has less of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lts_ray.errors import LtsRayError
from lts_ray.models.attend import Attend, OwnTokens
from lts_ray.models.extent import Extent, Widths, cut
from lts_ray.models.feed_forward import FeedForward
from lts_ray.models.few_rows import linear
from lts_ray.models.matformer.grouped_attention import GroupedAttention, rotary_table
from lts_ray.models.matformer.matformer_config import MatFormerConfig
from lts_ray.models.matformer.norm import LayerNorm, RMSNorm
from lts_ray.models.staircase import fan
from lts_ray.models.universal_model import UniversalModel
from lts_ray.submodel import Submodel
from lts_ray.torch_compiler import compiled


def norm_of(config: MatFormerConfig) -> RMSNorm | LayerNorm:
    norm = RMSNorm if config.family.norm == "rms" else LayerNorm
    return norm(config.d_model, eps=config.rms_norm_eps)


class MatFormerBlock(nn.Module):
    def __init__(self, config: MatFormerConfig, layer: int) -> None:
        super().__init__()
        self.input_layernorm = norm_of(config)
        self.self_attn = GroupedAttention(config, config.layer_heads[layer])
        self.post_attention_layernorm = norm_of(config)
        self.mlp = FeedForward(config.d_model, config.widths[layer], config.family)

    def forward(self, x: Tensor, rotary: Tensor | None, *, extent: Extent, attend: Attend, layer: int) -> Tensor:
        """x: [B, T, d_model], or as narrow as the widest row; and so is the result."""
        x = self.attend(x, rotary, extent=extent, attend=attend, layer=layer)
        return self.transform(x, extent.widths[layer], extent.d_model)

    def attend(self, x: Tensor, rotary: Tensor | None, *, extent: Extent, attend: Attend, layer: int) -> Tensor:
        heads = extent.heads[layer] if extent.heads else None
        normalised = self.input_layernorm(x, extent.d_model)
        attended: Tensor = self.self_attn(normalised, rotary, attend=attend, layer=layer, heads=heads)
        return x + own(attended, extent.d_model)

    def transform(self, x: Tensor, widths: Widths, d_model: Widths) -> Tensor:
        transformed: Tensor = self.mlp(self.post_attention_layernorm(x, d_model), widths)
        return x + own(transformed, d_model)


def _first(
    block: MatFormerBlock, x: Tensor, rotary: Tensor | None, extent: Extent, attend: Attend, widths: Sequence[int]
) -> Tensor:
    """The first layer of a pass for G FFN widths: x [B, T, d_model] to [G·B, T, d_model]. extent: of the layer."""
    x = block.attend(x, rotary, extent=extent, attend=attend, layer=0)
    return x.repeat(len(widths), 1, 1) + fan(block.post_attention_layernorm(x), widths, block.mlp)


def _other(block: MatFormerBlock, x: Tensor, rotary: Tensor | None, extent: Extent, attend: Attend) -> Tensor:
    """Any layer of a pass that remembers nothing, so that which one it is changes nothing. extent: of the layer."""
    y: Tensor = block(x, rotary, extent=extent, attend=attend, layer=0)
    return y


def own(x: Tensor, d_model: Widths) -> Tensor:
    """x [B, T, D] with nothing past each row's own width; what all rows have alike is as wide as x already."""
    return x if isinstance(d_model, int) else cut(x, d_model)


class MatFormer(UniversalModel):
    """The universal model. Parameter names are those of transformers' Llama, whatever the family."""

    config: MatFormerConfig
    rotary: Tensor

    def __init__(self, config: MatFormerConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.d_model)
        self.layers = nn.ModuleList(MatFormerBlock(config, layer) for layer in range(config.n_layer))
        self.norm = norm_of(config)
        self.tied, self.learned = config.tied, config.family.positions == "learned"
        if self.learned:
            self.embed_positions = nn.Embedding(config.context_length, config.d_model)
        if not config.tied:
            self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.register_buffer("rotary", rotary_table(config), persistent=False)

    @classmethod
    def fresh(cls, config: MatFormerConfig, generator: torch.Generator) -> MatFormer:
        """With weights that the generator draws, on its device; none are drawn that would be overwritten."""
        with torch.device("meta"):
            model = cls(config)
        model.to_empty(device=generator.device)
        model.rotary = rotary_table(config).to(generator.device)  # left unset by to_empty
        model.initialize(generator)
        return model

    def initialize(self, generator: torch.Generator) -> None:
        """Fresh weights: normal, with the layers' output projections scaled down by depth."""
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.dim() == 1:
                nn.init.ones_(parameter)
            else:
                std = 0.02
                if name.endswith(("o_proj.weight", "down_proj.weight")):
                    std /= (2 * self.config.n_layer) ** 0.5
                nn.init.normal_(parameter, std=std, generator=generator)

    @property
    def weight(self) -> Tensor:
        return self.embed_tokens.weight

    def run(self, tokens: Tensor, positions: Tensor, extent: Extent, attend: Attend) -> Tensor:
        x, rotary = self.start(tokens, positions, extent.d_model)
        for layer, block in enumerate(self.layers):
            x = block(x, rotary, extent=extent, attend=attend, layer=layer)
        normalised: Tensor = self.norm(x, extent.d_model)
        return normalised

    def fan_out(self, tokens: Tensor, submodels: Sequence[Submodel], *, by_compiler: bool = False) -> Tensor:
        """`hidden` of the same tokens [B, T] under each of G submodels: [G·B, T, d_model], submodel by submodel.

        Every submodel computes the same up to the first FFN's output: up to there all of them cost what one does.
        by_compiler: torch compiles a layer, once for all that are alike.
        Raises LtsRayError for submodels that differ in more than FFN widths: these share nothing.
        """
        rows, length = tokens.shape
        self._check_length(length, self.config.context_length)
        of_rows = [submodel for submodel in submodels for _ in range(rows)]
        extent = Extent.of(of_rows, len(of_rows), self.config)
        if len(submodels) > 1 and (extent.heads or extent.d_model):
            raise LtsRayError("submodels that differ in heads or d_model share no pass: run each alone")
        attend = OwnTokens()
        positions = torch.arange(length, device=tokens.device).expand(1, length)  # of all rows
        x, rotary = self.start(tokens, positions, extent.d_model)
        first, other = (compiled(_first), compiled(_other)) if by_compiler else (_first, _other)
        for layer, block in enumerate(self.layers):
            assert isinstance(block, MatFormerBlock)
            own = Extent(extent.widths[layer : layer + 1], extent.heads[layer : layer + 1], extent.d_model)
            if layer == 0 and len(submodels) > 1:
                x = first(block, x, rotary, own, attend, [submodel.widths[0] for submodel in submodels])
            else:
                x = other(block, x, rotary, own, attend)
        normalised: Tensor = self.norm(x, extent.d_model)
        return normalised

    @property
    def output_weight(self) -> Tensor:
        """The matrix of `logits`: [vocab_size, d_model]. It is the embedding's where the two are tied."""
        return self.embed_tokens.weight if self.tied else self.lm_head.weight

    def logits(self, hidden: Tensor) -> Tensor:
        return linear(hidden, self.output_weight[:, : hidden.shape[-1]])

    def start(self, tokens: Tensor, positions: Tensor, d_model: Widths) -> tuple[Tensor, Tensor | None]:
        """What the first layer gets: [B, T, d_model], and the angles [2, B, 1, T, d_head] where positions rotate.

        tokens: [B, T]; positions: [B, T], or [1, T] for all rows.
        """
        x: Tensor = self.embed_tokens(tokens)
        if self.learned:
            x = x + self.embed_positions(positions)
        if d_model:
            x = cut(x, d_model)
        return x, None if self.learned else self.rotary[:, positions].unsqueeze(2)
