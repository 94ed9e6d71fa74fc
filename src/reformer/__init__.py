"""Reformer Core: the Reformer as real software.

The public names load on first use, so that ``import reformer`` costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

from reformer.config import LSH, ConfigError, Full, Labels, Local, ReformerConfig

if TYPE_CHECKING:
    from reformer.models.classification import ReformerForSequenceClassification
    from reformer.models.encoder_decoder import ReformerEncoderDecoder
    from reformer.models.features import ReformerModel
    from reformer.models.language import ReformerForCausalLM
    from reformer.models.masked_language import ReformerForMaskedLM
    from reformer.models.question_answering import ReformerForQuestionAnswering
    from reformer.models.store import ModelError
    from reformer.models.token_classification import ReformerForTokenClassification
    from reformer.ops.dispatch import use_backend
    from reformer.ops.lsh_attention import local_attention, lsh_attention

__version__ = "0.1.0"

__all__ = [
    "LSH",
    "ConfigError",
    "Full",
    "Labels",
    "Local",
    "ModelError",
    "ReformerConfig",
    "ReformerEncoderDecoder",
    "ReformerForCausalLM",
    "ReformerForMaskedLM",
    "ReformerForQuestionAnswering",
    "ReformerForSequenceClassification",
    "ReformerForTokenClassification",
    "ReformerModel",
    "local_attention",
    "lsh_attention",
    "use_backend",
]

_HOMES = {
    "ModelError": "reformer.models.store",
    "ReformerEncoderDecoder": "reformer.models.encoder_decoder",
    "ReformerForCausalLM": "reformer.models.language",
    "ReformerForMaskedLM": "reformer.models.masked_language",
    "ReformerForQuestionAnswering": "reformer.models.question_answering",
    "ReformerForSequenceClassification": "reformer.models.classification",
    "ReformerForTokenClassification": "reformer.models.token_classification",
    "ReformerModel": "reformer.models.features",
    "local_attention": "reformer.ops.lsh_attention",
    "lsh_attention": "reformer.ops.lsh_attention",
    "use_backend": "reformer.ops.dispatch",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'reformer' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
