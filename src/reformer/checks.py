"""Checks of configuration values: an error names the field, the value and what would work."""


class ConfigError(ValueError):
    """A configuration value that cannot work; the message names the field and the fix."""


def require(condition: bool, name: str, value: object, fix: str) -> None:
    """ConfigError with the fix, unless the condition holds."""
    if not condition:
        raise ConfigError(f"{name} is {value!r}: {fix}")


def require_count(name: str, value: object, least: int = 1) -> None:
    """A whole number from ``least`` up."""
    valid = isinstance(value, int) and not isinstance(value, bool) and least <= value < 2**31
    require(valid, name, value, f"it must be a whole number from {least} to 2147483647")


def require_rate(name: str, value: object) -> None:
    """A share that is not the whole."""
    valid = isinstance(value, (int, float)) and 0.0 <= value < 1.0
    require(valid, name, value, "it must be a number from 0 up to, but not including, 1")


def require_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """One of these words."""
    require(value in choices, name, value, f"it must be one of {', '.join(choices)}")


def require_positive(name: str, value: object) -> None:
    """A number above zero, and not absurdly large."""
    valid = isinstance(value, (int, float)) and 0 < value <= 1e6
    require(valid, name, value, "it must be a positive number up to 1e6")
