"""What every model with a head shares: construction, saving and loading."""

import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Self

import torch
from torch import Tensor, nn

from reformer.config import ConfigError, ReformerConfig
from reformer.models.initialize import initialize
from reformer.models.reformer import Reformer
from reformer.models.store import ModelError, read_config, read_weights, write_model

WeightsReader = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]


class PretrainedReformer(nn.Module):
    """A trunk and a head. Subclasses build their head in ``build_head``."""

    trunk: type[Reformer] = Reformer

    def __init__(self, config: ReformerConfig, *, read: WeightsReader | None = None) -> None:
        """A new model with weights drawn from ``config.seed``, or the weights that ``read`` gives.

        ``read`` takes the tensors that are wanted, on the meta device, and returns theirs.
        """
        super().__init__()
        self.check(config)
        self.config = config
        # Built without storage: torch's own initialisation would use the global generator,
        # and weights that are read are checked before anything is allocated.
        with torch.device("meta"):
            self.reformer = self.trunk(config)
            self.head = self.build_head(config)
        if read is None:
            self.to_empty(device="cpu")
            initialize(self, config)
        else:
            self.load_state_dict(read(self.state_dict()), assign=True)
        self._num_draws = 0

    @classmethod
    def around(cls, config: ReformerConfig, reformer: Reformer, head: nn.Module) -> Self:
        """A model of modules that stay another's, such as a Hugging Face class's."""
        model = cls.__new__(cls)
        nn.Module.__init__(model)
        model.config, model.reformer, model.head = config, reformer, head
        model.training = reformer.training
        model._num_draws = 0
        return model

    @classmethod
    def check(cls, config: ReformerConfig) -> None:
        """ConfigError for an encoder where the model has none."""
        if config.encoder_layers is not None and cls.trunk is Reformer:
            raise ConfigError(
                f"encoder_layers is given, but {cls.__name__} has no encoder: leave it out"
            )

    @classmethod
    def build_head(cls, config: ReformerConfig) -> nn.Module:
        """The head, its weights yet to be set; ConfigError if the config is not for it."""
        raise TypeError(f"{cls.__name__} is a base class: use a model with a head")

    def _draw(self, draw: int | None) -> int | None:
        """The random draw of this pass: None in evaluation, else the given or the next number."""
        if not self.training:
            return None
        if draw is not None:
            return draw
        self._num_draws += 1
        return self._num_draws - 1

    def start_from(self, folder: str | os.PathLike[str]) -> None:
        """Take over the weights of the model in ``folder``: all of them where it has the same
        head, else the trunk's. ``store.ModelError`` when they do not fit.
        """
        architecture, config = read_config(folder)
        same_head = architecture == type(self).__name__ and config.labels == self.config.labels
        prefix = "" if same_head else "reformer."
        wanted = {n: t for n, t in self.state_dict().items() if n.startswith(prefix)}
        self.load_state_dict(read_weights(folder, wanted, prefix=prefix), strict=same_head)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write config.json and model.safetensors into ``folder``."""
        write_model(folder, type(self).__name__, self.config, self.state_dict())

    @classmethod
    def from_pretrained(
        cls, folder: str | os.PathLike[str], *, num_hashes: int | None = None
    ) -> Self:
        """Read a model, in evaluation mode; ``store.ModelError`` for a folder without one.

        num_hashes: rounds for every LSH layer, instead of the config's own.
        """
        _, config = read_config(folder, cls.__name__)
        if num_hashes is not None:
            config = config.with_num_hashes(num_hashes)
        try:
            return cls(config, read=partial(read_weights, folder)).eval()
        except ConfigError as error:
            raise ModelError(f"{folder}: {error}") from error
