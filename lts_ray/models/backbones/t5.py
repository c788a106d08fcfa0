"""T5 (Raffel et al., 2020) with two stacks of their own depth, heads and FFN widths: an encoder and a decoder.

Norms before the sublayers scale only, no matrix has a bias, attention scores are not scaled, FFNs have a ReLU, and one
embedding serves both stacks and the logits. It is searched, not trained.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional

from lts_ray.architecture import Architecture, Stack
from lts_ray.errors import LtsRayError
from lts_ray.models.backbones.backbone import check_heads, check_plain_embedding, count
from lts_ray.models.backbones.backbone_cache import BackboneCache
from lts_ray.models.backbones.causal_attention import split_heads
from lts_ray.models.backbones.encoder_decoder_cache import EncoderDecoderCache, Memory
from lts_ray.models.backbones.position_bias import PositionBias

NORM_EPSILON = 1e-6


class T5Attention(nn.Module):
    """Over a sequence's own tokens, or over what an encoder made of another one."""

    def __init__(self, d_model: int, n_head: int) -> None:
        super().__init__()
        self.n_head = n_head
        self.q = nn.Linear(d_model, d_model, bias=False)
        self.kv = nn.Linear(d_model, 2 * d_model, bias=False)
        self.out = nn.Linear(d_model, d_model, bias=False)

    def keys_and_values(self, x: Tensor) -> Memory:
        """Of x, [B, S, d_model]: [B, S, d_model] each."""
        k, v = self.kv(x).chunk(2, dim=-1)
        return k, v

    def forward(self, x: Tensor, memory: Memory, bias: Tensor | None) -> Tensor:
        """x: [B, T, d_model]; bias: [1, n_head, T, S] or None. Returns x's shape."""
        q, k, v = (split_heads(part, self.n_head) for part in (self.q(x), *memory))
        y = functional.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)
        attended: Tensor = self.out(y.transpose(1, 2).flatten(2))
        return attended


class T5FeedForward(nn.Module):
    def __init__(self, d_model: int, d_inner: int) -> None:
        super().__init__()
        self.up = nn.Linear(d_model, d_inner, bias=False)
        self.down = nn.Linear(d_inner, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, T, d_model], and so is the result."""
        y: Tensor = self.down(functional.relu(self.up(x)))
        return y


class T5Block(nn.Module):
    """crosses: whether the layer attends to an encoder as well, as a decoder's do."""

    def __init__(self, d_model: int, n_head: int, d_inner: int, *, crosses: bool) -> None:
        super().__init__()
        self.attention_norm = _norm(d_model)
        self.attention = T5Attention(d_model, n_head)
        self.cross_norm = _norm(d_model) if crosses else None
        self.cross = T5Attention(d_model, n_head) if crosses else None
        self.feed_forward_norm = _norm(d_model)
        self.feed_forward = T5FeedForward(d_model, d_inner)

    def forward(
        self, x: Tensor, bias: Tensor, source: Memory | None, cache: BackboneCache | None, layer: int, start: int
    ) -> Tensor:
        """x: [B, T, d_model], behind the `start` tokens of the cache; and so is the result."""
        normed = self.attention_norm(x)
        memory = self.attention.keys_and_values(normed)
        if cache is not None:
            memory = cache.write(layer, start, *memory)
        x = x + self.attention(normed, memory, bias)
        if self.cross is not None and self.cross_norm is not None:
            assert source is not None, "a decoder needs what it decodes from"
            x = x + self.cross(self.cross_norm(x), source, None)
        transformed: Tensor = self.feed_forward(self.feed_forward_norm(x))
        return x + transformed


class T5Stack(nn.Module):
    def __init__(self, d_model: int, stack: Stack, *, is_decoder: bool) -> None:
        super().__init__()
        self.n_head = stack.n_head
        self.bias = PositionBias(stack.n_head, bidirectional=not is_decoder)
        layers = zip(stack.n_head, stack.d_inner, strict=True)
        self.layers = nn.ModuleList(T5Block(d_model, n_head, d_inner, crosses=is_decoder) for n_head, d_inner in layers)
        self.norm = _norm(d_model)

    def sources(self, encoded: Tensor) -> tuple[Memory, ...]:
        """Keys and values of what the encoder made, [B, S, d_model], for every layer of a decoder."""
        crossing = [block.cross for block in self.layers if isinstance(block, T5Block) and block.cross is not None]
        return tuple(cross.keys_and_values(encoded) for cross in crossing)

    def forward(
        self, x: Tensor, sources: tuple[Memory, ...] = (), cache: BackboneCache | None = None, start: int = 0
    ) -> Tensor:
        """x: [B, T, d_model], and so is the result. sources: by layer, of a decoder."""
        length = x.shape[1]
        biases = self.bias(start, length, start + length, device=x.device)
        for layer, (block, n_head) in enumerate(zip(self.layers, self.n_head, strict=True)):
            x = block(x, biases[n_head], sources[layer] if sources else None, cache, layer, start)
        normed: Tensor = self.norm(x)
        return normed


class T5(nn.Module):
    """No limit to either sequence: positions are relative. The rows of a cache hold equally many tokens."""

    def __init__(self, architecture: Architecture, *, vocab_size: int) -> None:
        super().__init__()
        if architecture.encoder is None:
            raise LtsRayError("T5 has two stacks of layers: the architecture needs an encoder")
        check_plain_embedding(architecture, "T5")
        own, encoder = architecture.stacks
        check_heads(architecture.d_model, own.n_head, "the decoder's layer")
        check_heads(architecture.d_model, encoder.n_head, "the encoder's layer")
        self.architecture, self.vocab_size = architecture, vocab_size
        self.embedding = nn.Embedding(vocab_size, architecture.d_model)
        self.encoder = T5Stack(architecture.d_model, encoder, is_decoder=False)
        self.decoder = T5Stack(architecture.d_model, own, is_decoder=True)

    def forward(self, source: Tensor, tokens: Tensor) -> Tensor:
        """Logits of the token after each of tokens [B, T], decoded from source [B, S]: [B, T, vocab_size]."""
        return self._logits(self.decoder(self.embedding(tokens), self._sources(source)))

    def empty_cache(self, *, rows: int, length: int) -> EncoderDecoderCache:
        """For `rows` rows of up to `length` decoded tokens, in the parameters' type and on their device."""
        n_layer, like = self.architecture.n_layer, self.embedding.weight
        return EncoderDecoderCache(decoded=BackboneCache.empty(n_layer, rows=rows, length=length, like=like))

    def read(self, source: Tensor, cache: EncoderDecoderCache) -> None:
        """Encode source [B, S] and decode from it from now on; the cache's rows hold no decoded tokens then."""
        cache.sources[:] = self._sources(source)
        cache.lengths.zero_()

    def decode(self, tokens: Tensor, cache: EncoderDecoderCache, *, last_only: bool = False) -> Tensor:
        """Logits after tokens [B, T], which go behind what each row has decoded from the source that was read.

        Returns [B, T, vocab_size], or [B, 1, vocab_size] with `last_only`. Raises LtsRayError when a row would pass the
        cache, or rows hold different numbers of tokens.
        """
        start = cache.place(tokens)
        x = self.decoder(self.embedding(tokens), tuple(cache.sources), cache.decoded, start)
        cache.lengths.add_(tokens.shape[1])
        return self._logits(x[:, -1:] if last_only else x)

    def parameter_counts(self) -> Mapping[str, int]:
        """Parameters in the embedding, the encoder and the decoder; the logits' matrix is the embedding's."""
        parts = {"embedding": self.embedding, "encoder": self.encoder, "decoder": self.decoder}
        return {name: count(part) for name, part in parts.items()}

    def _sources(self, source: Tensor) -> tuple[Memory, ...]:
        """Keys and values of source [B, S] for every decoder layer."""
        encoded: Tensor = self.encoder(self.embedding(source))
        return self.decoder.sources(encoded)

    def _logits(self, x: Tensor) -> Tensor:
        """x: [B, T, d_model]. Scaled, because the embedding's rows are not small."""
        return functional.linear(x * self.architecture.d_model**-0.5, self.embedding.weight)


def _norm(d_model: int) -> nn.RMSNorm:
    return nn.RMSNorm(d_model, eps=NORM_EPSILON)
