"""Pure functions on tensors: the paper's formulas, each beside its plain-torch definition."""

from reformer.ops import tiled as tiled  # registers the torch path of the attention op
