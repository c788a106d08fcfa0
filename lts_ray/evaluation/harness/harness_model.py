"""A submodel as lm_eval sees a model: texts in, likelihoods and completions out.

It reads texts as lm_eval's own model of transformers does: special tokens as the folder's tokenizer puts them, what is
too long loses its beginning, and long texts are read in windows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window, simple_parse_args_string
from tqdm import tqdm

from lts_ray.checkpoints.model_tokenizer import load_model_tokenizer
from lts_ray.checkpoints.universal import load_universal
from lts_ray.errors import LtsRayError
from lts_ray.evaluation.harness import MODEL_NAME
from lts_ray.evaluation.harness.completion import CompletionSettings, complete
from lts_ray.evaluation.harness.likelihood import Continuation, likelihoods
from lts_ray.evaluation.harness.model_arguments import BATCH_SIZE, ModelArguments
from lts_ray.evaluation.named_submodels import frontier_points, submodel_of
from lts_ray.models.universal_model import UniversalModel
from lts_ray.submodel import Submodel
from lts_ray.text.tokenizer import Tokenizer

MAX_GENERATED = 256
"""Tokens of a completion where the task does not say; half the context where that is less. lm_eval's own number."""


@register_model(MODEL_NAME)
class HarnessModel(TemplateLM):  # type: ignore[misc]  # lm_eval has no types
    """Nothing is kept from one call to the next; several of one checkpoint can share the model."""

    def __init__(
        self,
        model: UniversalModel,
        tokenizer: Tokenizer,
        submodel: Submodel,
        *,
        batch_size: int = BATCH_SIZE,
        max_length: int | None = None,
        add_bos_token: bool | None = None,
    ) -> None:
        super().__init__()
        context = model.config.context_length
        if max_length is not None and not 1 < max_length <= context:
            raise LtsRayError(f"max_length must be from 2 to the model's context of {context}; got {max_length}")
        self.model, self.tokenizer, self.submodel = model, tokenizer, submodel
        self.batch_size, self.max_length = batch_size, max_length or context
        self.add_bos_token = add_bos_token

    @classmethod
    def load(cls, arguments: ModelArguments) -> HarnessModel:
        checkpoint = load_universal(arguments.model, dtype=getattr(torch, arguments.dtype), device=arguments.device)
        config = checkpoint.model.config
        points = frontier_points(arguments.frontier, checkpoint.fingerprint, config)
        name = arguments.submodel
        model, submodel = checkpoint.run_by(config.universal if name is None else submodel_of(config, name, points))
        return cls(
            model,
            load_model_tokenizer(arguments.model, vocab_size=config.vocab_size),
            submodel,
            batch_size=arguments.batch_size,
            max_length=arguments.max_length,
            add_bos_token=arguments.add_bos_token,
        )

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: Mapping[str, Any], additional_config: Mapping[str, Any] | None = None
    ) -> HarnessModel:
        """`--model_args` wins over lm_eval's own `--batch_size` and `--device`, which is a GPU unless it is told."""
        beside = {name: value for name, value in (additional_config or {}).items() if value is not None}
        beside.pop("max_batch_size", None)  # of lm_eval's search for what fits
        if str(beside.get("device", "")).startswith("cuda") and not torch.cuda.is_available():
            del beside["device"]
        return cls.load(ModelArguments.parse({**beside, **arg_dict}))

    @classmethod
    def create_from_arg_string(
        cls, arg_string: str, additional_config: Mapping[str, Any] | None = None
    ) -> HarnessModel:
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    @property
    def eot_token_id(self) -> int:
        return self.tokenizer.eos_id

    @property
    def prefix_token_id(self) -> int:
        """Stands before a text without a context: the token that begins a text, else the one that ends it."""
        named = self.tokenizer.settings.get("bos_token")
        text = named.get("content") if isinstance(named, dict) else named
        token = self.tokenizer.backend.token_to_id(text) if isinstance(text, str) else None
        return self.eot_token_id if token is None else token

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **unused: object) -> list[int]:
        """With the tokenizer's special tokens, unless the text begins with them, or the caller says.

        Where add_bos_token is said, the token that begins a text is the only one, or there is none.
        """
        if add_special_tokens is None:
            first = self.tokenizer.backend.id_to_token(self.prefix_token_id) or ""
            add_special_tokens = self.add_bos_token is not False and not string.startswith(first)
        if self.add_bos_token is None:
            return self.tokenizer.encode(string, add_special_tokens=add_special_tokens)
        begin = [self.prefix_token_id] if self.add_bos_token and add_special_tokens else []
        return begin + self.tokenizer.encode(string, add_special_tokens=False)

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[tuple[str, str] | None, list[int], list[int]]],
        disable_tqdm: bool = False,
    ) -> list[tuple[float, bool]]:
        """requests: texts, which lm_eval may cache the results by, with their contexts' and continuations' tokens."""
        texts = [self._continuation(context, continuation) for _, context, continuation in requests]
        with tqdm(total=len(texts), disable=disable_tqdm, desc="Likelihoods") as bar:
            scored = likelihoods(self.model, self.submodel, texts, batch_size=self.batch_size, progress=bar.update)
        answers = [(likelihood.nats, likelihood.is_greedy) for likelihood in scored]
        for (text, _, _), answer in zip(requests, answers, strict=True):
            if text is not None:
                self.cache_hook.add_partial("loglikelihood", text, answer)
        return answers

    def _continuation(self, context: list[int], continuation: list[int]) -> Continuation:
        """What is too long loses the beginning of its context. The last token is scored, not read."""
        if not 0 < len(continuation) <= self.max_length:
            raise LtsRayError(
                f"a continuation must have from 1 to {self.max_length} tokens, the model's context; "
                f"got {len(continuation)} behind a context of {len(context)}"
            )
        return Continuation(tuple([*context, *continuation][-(self.max_length + 1) :]), len(continuation))

    def loglikelihood_rolling(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[float]:
        """Of whole texts, each token given as much of its window as is before it; windows of all texts at once."""
        owners: list[int] = []
        windows: list[tuple[None, list[int], list[int]]] = []
        for owner, request in enumerate(requests):
            for window in get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            ):
                owners.append(owner)
                windows.append((None, *make_disjoint_window(window)))
        sums = [0.0] * len(requests)
        for owner, (nats, _) in zip(owners, self._loglikelihood_tokens(windows, disable_tqdm), strict=True):
            sums[owner] += nats
        for request, total in zip(requests, sums, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return sums

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """One prompt at a time. A prompt that leaves no room for the completion loses its beginning.

        What is drawn follows lm_eval's seed for torch.
        """
        generator = torch.Generator().manual_seed(torch.initial_seed())
        texts = []
        for request in tqdm(requests, disable=disable_tqdm, desc="Completions"):
            prompt, given = request.args
            settings = CompletionSettings.parse(normalize_gen_kwargs(given, min(MAX_GENERATED, self.max_length // 2)))
            room = self.max_length - settings.max_tokens
            if room < 1:
                raise LtsRayError(
                    f"completions of {settings.max_tokens} tokens leave no room for a prompt in the model's context of "
                    f"{self.max_length}: set a smaller max_gen_toks"
                )
            text = complete(
                self.model,
                self.tokenizer,
                self.tok_encode(prompt)[-room:] or [self.prefix_token_id],
                submodel=self.submodel,
                settings=settings,
                generator=generator,
            )
            texts.append(text)
            self.cache_hook.add_partial("generate_until", request.args, text)
        return texts

    @property
    def tokenizer_name(self) -> str:
        """lm_eval keeps built requests by it: equal templates build equal requests."""
        return self.tokenizer.chat_template

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Without an answer's beginning the last message is gone on with."""
        return self.tokenizer.render_chat(
            chat_history, add_generation_prompt=add_generation_prompt, continue_final_message=not add_generation_prompt
        )

    def get_model_info(self) -> dict[str, Any]:
        """What lm_eval writes beside the results."""
        return {
            "submodel": self.submodel.to_json(),
            "decoder_params": self.model.config.decoder_params(self.submodel),
            "model_dtype": str(next(self.model.parameters()).dtype),
        }
