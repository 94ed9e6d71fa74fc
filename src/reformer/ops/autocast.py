"""The ambient autocast setting, captured so that a recomputation runs under the same one."""

from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class AutocastState:
    """Autocast of one device type as it was in force at ``capture``."""

    device_type: str
    enabled: bool
    dtype: torch.dtype

    @classmethod
    def capture(cls, device_type: str) -> "AutocastState":
        """What is in force now, for tensors on this type of device."""
        enabled = torch.is_autocast_enabled(device_type)
        return cls(device_type, enabled, torch.get_autocast_dtype(device_type))

    def restore(self) -> AbstractContextManager[None]:
        """A context in which the captured setting is in force again."""
        return torch.autocast(self.device_type, dtype=self.dtype, enabled=self.enabled)
