"""Pure functions on tensors: the paper's formulas, each beside its plain-torch definition."""

# Importing these registers the torch path of the attention op.
from reformer.ops import tiled as tiled
from reformer.ops import tiled_backward as tiled_backward
