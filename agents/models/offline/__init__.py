"""The offline model: routing by rules and weights, answers taken from the bundled help centre (ADR-0007)."""

from agents.models.offline.model import OfflineChatModel

OFFLINE = "offline"
"""Name of the model, and of its provider."""

__all__ = ["OFFLINE", "OfflineChatModel"]
