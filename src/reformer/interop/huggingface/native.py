"""Our models as transformers knows them: one config class, one model class per head.

Importing this module registers them, so ``AutoModelForCausalLM.from_pretrained(folder)`` and
its sisters load folders of ours, and Trainer, pipelines, PEFT and others work on the result.
Weights have the same names as in our own models: ``save_pretrained`` of either side writes a
folder that both can read. The model type is "reformer_core"; "reformer" is theirs.
"""

import zlib
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import transformers
from torch import Tensor, nn
from transformers.modeling_outputs import (
    BaseModelOutput,
    CausalLMOutputWithPast,
    MaskedLMOutput,
    ModelOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
)

from reformer.config import Labels, Problem, ReformerConfig
from reformer.interop.huggingface.configuration import PROBLEMS
from reformer.interop.huggingface.decoding import CacheOfRows, continue_rows, is_decodable
from reformer.models import classification, features, language, masked_language
from reformer.models import question_answering as answering
from reformer.models.initialize import initialize_module
from reformer.models.pretrained import PretrainedReformer
from reformer.models.reformer import Reformer
from reformer.models.store import MODEL_TYPE
from reformer.ops.randomness import generator

# What outputs call the cache that generate() hands on: "cache" from transformers 5.24.
CACHE_NAME = next(
    field.name
    for field in fields(CausalLMOutputWithPast)
    if field.name in ("cache", "past_key_values")
)


class ReformerCoreConfig(transformers.PreTrainedConfig):
    """Holds a ``ReformerConfig`` as ``reformer``, a dictionary; ``core`` is the object."""

    model_type = MODEL_TYPE

    reformer: dict[str, Any] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        core = ReformerConfig.from_dict(self.reformer or {})
        if core.labels is not None:
            self.problem_type = PROBLEMS[core.labels.problem]
            names = core.labels.names or [f"LABEL_{i}" for i in range(core.labels.num_labels)]
            self.id2label = dict(enumerate(names))
            self.label2id = {name: index for index, name in enumerate(names)}
        self.reformer = core.to_dict()
        super().__post_init__(**kwargs)

    @classmethod
    def of(cls, core: ReformerConfig, **values: Any) -> "ReformerCoreConfig":
        """The transformers configuration for one of ours."""
        return cls(reformer=core.to_dict(), **values)

    @property
    def core(self) -> ReformerConfig:
        return ReformerConfig.from_dict(self.reformer or {})

    # The names by which other libraries ask for sizes.
    @property
    def vocab_size(self) -> int:
        return self.core.vocab_size

    @property
    def hidden_size(self) -> int:
        return self.core.hidden_size

    @property
    def num_attention_heads(self) -> int:
        return self.core.num_heads

    @property
    def num_hidden_layers(self) -> int:
        return len(self.core.layers)

    @property
    def max_position_embeddings(self) -> int:
        return self.core.max_length


class ReformerPreTrainedModel(transformers.PreTrainedModel):
    """A trunk, a head, and the model of ours that computes with them."""

    config_class = ReformerCoreConfig
    base_model_prefix = "reformer"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = False
    _no_split_modules = ["ReversibleBlock"]  # noqa: RUF012 - theirs
    # The Trainer divides the losses of accumulated batches itself.
    accepts_loss_kwargs = False
    ours: type[PretrainedReformer]

    def __init__(self, config: ReformerCoreConfig) -> None:
        super().__init__(config)
        core = self._core(config)
        self.core_config = core
        self.reformer = Reformer(core)
        self.head = self.ours.build_head(core)
        self._num_draws = 0
        self.post_init()

    def _core(self, config: ReformerCoreConfig) -> ReformerConfig:
        return config.core

    def _init_weights(self, module: nn.Module) -> None:
        core = self.core_config
        name = next(name for name, other in self.named_modules() if other is module)
        rng = generator(core.seed, zlib.crc32(name.encode()))
        initialize_module(name, module, rng, core)

    def get_input_embeddings(self) -> nn.Module:
        return self.reformer.embedding.tokens

    def _model(self) -> Any:
        """Ours, around the present modules (adapters may have replaced some)."""
        model = self.ours.around(self.core_config, self.reformer, self.head)
        model.training = self.training
        return model

    def _arguments(
        self, input_ids: Tensor | None, mask: Tensor | None, positions: Tensor | None
    ) -> dict[str, Any]:
        """What our models take for what theirs are given."""
        if input_ids is None:
            raise ValueError("input_ids is None: these models take token ids, not embeddings")
        if mask is not None and bool(mask.all()):
            mask = None
        if positions is None and mask is not None:
            # Padding on either side leaves a text where it would stand alone.
            positions = (mask.long().cumsum(dim=-1) - 1).clamp(min=0)
        draw = None
        if self.training:
            draw = self._num_draws
            self._num_draws += 1
        return {
            "input_ids": input_ids,
            "segment_ids": None if mask is None else mask.long() - 1,
            "positions": positions,
            "draw": draw,
        }


def _result(output: ModelOutput, return_dict: bool | None) -> Any:
    return output.to_tuple() if return_dict is False else output


class ReformerModel(ReformerPreTrainedModel):
    """Features [B, L, 2 D]."""

    ours = features.ReformerModel

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        return_dict: bool | None = None,
        **_: Any,
    ) -> Any:
        out = self._model()(**self._arguments(input_ids, attention_mask, position_ids))
        return _result(BaseModelOutput(last_hidden_state=out.last_hidden_state), return_dict)


class ReformerForCausalLM(ReformerPreTrainedModel, transformers.GenerationMixin):
    """Language model; ``generate`` reads each token once where the model allows a cache."""

    ours = language.ReformerForCausalLM

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        labels: Tensor | None = None,
        cache: CacheOfRows | None = None,
        past_key_values: CacheOfRows | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        return_dict: bool | None = None,
        **_: Any,
    ) -> Any:
        """As is usual there: labels are aligned with input_ids, -100 does not count.

        In training, a call with labels gives the loss alone: the logits never exist as a whole.
        cache: what an earlier call returned; past_key_values is its old name.
        """
        model = self._model()
        if cache is None:
            cache = past_key_values
        cached = bool(use_cache) and not self.training and is_decodable(self.core_config)
        if input_ids is not None and (cache is not None or (cached and labels is None)):
            if cache is None:
                cache = CacheOfRows.of(model, len(input_ids))
            last = continue_rows(model, input_ids, attention_mask, cache, logits_to_keep)
            output = CausalLMOutputWithPast(**{"logits": last, CACHE_NAME: cache})
            return _result(output, return_dict)
        arguments = self._arguments(input_ids, attention_mask, position_ids)
        loss: Tensor | None = None
        logits: Tensor | None = None
        if labels is not None:
            loss = model(**arguments, labels=labels).loss
        if labels is None or not self.training:
            hidden = self.reformer(**arguments)[:, -logits_to_keep:]
            logits = self.head(self.reformer.norm(hidden))
        return _result(CausalLMOutputWithPast(loss=loss, logits=logits), return_dict)

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        cache: CacheOfRows | None = None,
        past_key_values: CacheOfRows | None = None,
        attention_mask: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        **_: Any,
    ) -> dict[str, Any]:
        """Without a cache every step reads the whole text again."""
        if cache is None:
            cache = past_key_values
        if cache is not None:
            input_ids = input_ids[:, cache.get_seq_length() :]
        return {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "cache": cache,
            "use_cache": use_cache,
            "logits_to_keep": logits_to_keep,
        }


class ReformerForMaskedLM(ReformerPreTrainedModel):
    """Masked language model."""

    ours = masked_language.ReformerForMaskedLM

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        labels: Tensor | None = None,
        return_dict: bool | None = None,
        **_: Any,
    ) -> Any:
        """In training, a call with labels gives the loss alone."""
        model = self._model()
        arguments = self._arguments(input_ids, attention_mask, position_ids)
        loss = logits = None
        if labels is not None:
            loss = model(**arguments, labels=labels).loss
        if labels is None or not self.training:
            logits = model(**arguments).logits
        return _result(MaskedLMOutput(loss=loss, logits=logits), return_dict)


class ReformerForSequenceClassification(ReformerPreTrainedModel):
    """Labels for whole sequences."""

    ours = classification.ReformerForSequenceClassification

    def _core(self, config: ReformerCoreConfig) -> ReformerConfig:
        """A model without labels gets as many as theirs asks for."""
        core = config.core
        if core.labels is None or core.labels.num_labels != config.num_labels:
            problem = next((k for k, v in PROBLEMS.items() if v == config.problem_type), None)
            alone: Problem = "regression" if config.num_labels == 1 else "single_label"
            core = replace(core, labels=Labels(config.num_labels, problem or alone))
            config.reformer = core.to_dict()
        return core

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        labels: Tensor | None = None,
        return_dict: bool | None = None,
        **_: Any,
    ) -> Any:
        arguments = self._arguments(input_ids, attention_mask, position_ids)
        out = self._model()(**arguments, labels=labels)
        return _result(SequenceClassifierOutput(loss=out.loss, logits=out.logits), return_dict)


class ReformerForQuestionAnswering(ReformerPreTrainedModel):
    """Start and end of an answer."""

    ours = answering.ReformerForQuestionAnswering

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        return_dict: bool | None = None,
        **_: Any,
    ) -> Any:
        arguments = self._arguments(input_ids, attention_mask, position_ids)
        targets = {"start_positions": start_positions, "end_positions": end_positions}
        out = self._model()(**arguments, **targets)
        output = QuestionAnsweringModelOutput(
            loss=out.loss, start_logits=out.start_logits, end_logits=out.end_logits
        )
        return _result(output, return_dict)


_CLASSES: Mapping[Any, type[ReformerPreTrainedModel]] = {
    transformers.AutoModel: ReformerModel,
    transformers.AutoModelForCausalLM: ReformerForCausalLM,
    transformers.AutoModelForMaskedLM: ReformerForMaskedLM,
    transformers.AutoModelForSequenceClassification: ReformerForSequenceClassification,
    transformers.AutoModelForQuestionAnswering: ReformerForQuestionAnswering,
}


def _register() -> None:
    transformers.AutoConfig.register(MODEL_TYPE, ReformerCoreConfig, exist_ok=True)
    transformers.AutoTokenizer.register(
        ReformerCoreConfig, tokenizer_class=transformers.PreTrainedTokenizerFast, exist_ok=True
    )
    for auto, cls in _CLASSES.items():
        auto.register(ReformerCoreConfig, cls, exist_ok=True)


_register()
