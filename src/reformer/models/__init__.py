"""Models: the trunk, the heads on it, and how they are stored."""
