"""Pure functions on tensors: the paper's formulas, each beside its plain-torch definition."""
