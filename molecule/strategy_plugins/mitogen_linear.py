"""Mitogen's own strategy, where Ansible finds it without knowing the virtual environment's path."""

from ansible_mitogen.plugins.strategy.mitogen_linear import (  # type: ignore[import-untyped]
    StrategyModule,
)

__all__ = ["StrategyModule"]
