"""Modules: parameters and shapes; the maths is a call into ``reformer.ops``."""
