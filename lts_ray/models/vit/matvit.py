"""MatViT: a vision transformer whose FFN blocks nest (MatFormer, appendix E).

As in the language models, the submodel to run is an argument: images of one batch may be read by different ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from lts_ray.errors import LtsRayError
from lts_ray.models.extent import Extent, Widths
from lts_ray.models.feed_forward import FeedForward
from lts_ray.models.staircase import fan
from lts_ray.models.vit.vit_config import MatViTConfig
from lts_ray.submodel import Submodel

Chosen = Submodel | Sequence[Submodel]
"""One for all images, or one for each."""


class MatViTAttention(nn.Module):
    """Every patch sees all of them. Not nested: every width shares it."""

    def __init__(self, config: MatViTConfig) -> None:
        super().__init__()
        self.n_head, inner = config.n_head, config.n_head * config.d_head
        self.q_proj = nn.Linear(config.d_model, inner, bias=config.qkv_bias)
        self.k_proj = nn.Linear(config.d_model, inner, bias=config.qkv_bias)
        self.v_proj = nn.Linear(config.d_model, inner, bias=config.qkv_bias)
        self.o_proj = nn.Linear(inner, config.d_model)

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, T, d_model], and so is the result."""
        heads = (
            project(x).unflatten(-1, (self.n_head, -1)).transpose(1, 2)  # [B, n_head, T, d_head]
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        y = functional.scaled_dot_product_attention(*heads)
        attended: Tensor = self.o_proj(y.transpose(1, 2).flatten(2))
        return attended


class MatViTBlock(nn.Module):
    def __init__(self, config: MatViTConfig, width: int) -> None:
        super().__init__()
        self.layernorm_before = nn.LayerNorm(config.d_model, eps=config.layer_norm_eps)
        self.attention = MatViTAttention(config)
        self.layernorm_after = nn.LayerNorm(config.d_model, eps=config.layer_norm_eps)
        self.mlp = FeedForward(config.d_model, width, config.family)

    def attend(self, x: Tensor) -> Tensor:
        attended: Tensor = self.attention(self.layernorm_before(x))
        return x + attended

    def transform(self, x: Tensor, widths: Widths) -> Tensor:
        transformed: Tensor = self.mlp(self.layernorm_after(x), widths)
        return x + transformed

    def fan_out(self, x: Tensor, widths: Sequence[int]) -> Tensor:
        """`transform` under each of the widths: [B, T, d_model] to [G·B, T, d_model], width by width."""
        return x.repeat(len(widths), 1, 1) + fan(self.layernorm_after(x), widths, self.mlp)


class MatViT(nn.Module):
    """The universal model. Images come normalised, as transformers' ViT takes them."""

    def __init__(self, config: MatViTConfig) -> None:
        super().__init__()
        self.config = config
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.d_model))
        self.position_embeddings = nn.Parameter(torch.zeros(1, config.patches + 1, config.d_model))
        self.patches = nn.Conv2d(config.channels, config.d_model, config.patch_size, stride=config.patch_size)
        self.layers = nn.ModuleList(MatViTBlock(config, width) for width in config.widths)
        self.layernorm = nn.LayerNorm(config.d_model, eps=config.layer_norm_eps)
        self.classifier = nn.Linear(config.d_model, len(config.labels))

    def initialize(self, generator: torch.Generator) -> None:
        """Fresh weights: normal, so that what a matrix gives is as large as what it takes, whatever its size.

        The layers' output projections are scaled down by depth, and the classifier begins almost even.
        """
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.dim() == 1:
                nn.init.ones_(parameter)
            elif name.endswith(("cls_token", "position_embeddings")):
                nn.init.normal_(parameter, std=0.1, generator=generator)
            else:
                std = parameter[0].numel() ** -0.5
                if name.endswith(("o_proj.weight", "down_proj.weight")):
                    std /= (2 * self.config.n_layer) ** 0.5
                elif name.startswith("classifier"):
                    std /= 10
                nn.init.normal_(parameter, std=std, generator=generator)

    def forward(self, images: Tensor, *, submodel: Chosen) -> Tensor:
        """Logits of the classes: images [B, C, H, W] to [B, classes]; each image gets what it would get alone.

        Raises LtsRayError for images of another size, and for submodels that the model does not have.
        """
        return self.classify(self.encode(images, submodel=submodel))

    def encode(self, images: Tensor, *, submodel: Chosen) -> Tensor:
        """What retrieval compares and the classifier reads: the class token behind the last norm, [B, d_model]."""
        extent = Extent.of(submodel, len(images), self.config)
        x = self._embed(images)
        for layer, widths in enumerate(extent.widths):
            block = self._block(layer)
            x = block.transform(block.attend(x), widths)
        return self._read(x)

    def fan_out(self, images: Tensor, submodels: Sequence[Submodel]) -> Tensor:
        """`encode` of the same images [B, C, H, W] under each of G submodels: [G·B, d_model], submodel by submodel.

        Every submodel computes the same up to the first FFN: up to there all of them cost what one does.
        """
        extent = Extent.of(
            [submodel for submodel in submodels for _ in images], len(submodels) * len(images), self.config
        )
        first = self._block(0)
        x = first.fan_out(first.attend(self._embed(images)), [submodel.widths[0] for submodel in submodels])
        for layer in range(1, self.config.n_layer):
            block = self._block(layer)
            x = block.transform(block.attend(x), extent.widths[layer])
        return self._read(x)

    def classify(self, encoded: Tensor) -> Tensor:
        """[..., d_model] to [..., classes]."""
        logits: Tensor = self.classifier(encoded)
        return logits

    def _embed(self, images: Tensor) -> Tensor:
        """[B, C, H, W] to [B, 1 + patches, d_model]."""
        expected = (self.config.channels, *self.config.image_size)
        if tuple(images.shape[1:]) != expected:
            raise LtsRayError(
                f"the model takes images of (channels, height, width) {expected}; got {tuple(images.shape[1:])}"
            )
        # What the convolution computes; but on a GPU convolutions in float32 are TF32's, and products are exact.
        flat = in_patches(images, self.config.patch_size)
        x = functional.linear(flat, self.patches.weight.flatten(1), self.patches.bias)  # [B, patches, d_model]
        return torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.position_embeddings

    def _read(self, x: Tensor) -> Tensor:
        encoded: Tensor = self.layernorm(x[:, 0])
        return encoded

    def _block(self, layer: int) -> MatViTBlock:
        block = self.layers[layer]
        assert isinstance(block, MatViTBlock)
        return block


def in_patches(images: Tensor, size: tuple[int, int]) -> Tensor:
    """[B, C, H, W] to [B, patches, C · tall · wide], row by row; pixels past the last whole patch are left out."""
    tall, wide = size
    rows, columns = images.shape[2] // tall, images.shape[3] // wide
    whole = images[:, :, : rows * tall, : columns * wide].reshape(*images.shape[:2], rows, tall, columns, wide)
    return whole.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
