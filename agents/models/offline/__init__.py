"""The offline model: routing by rules and weights, answers taken from the bundled help centre (ADR-0007)."""

from agents.models.offline.model import OfflineChatModel

__all__ = ["OfflineChatModel"]
