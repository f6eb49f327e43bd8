"""Capataz: a LangGraph supervisor service over HTTP."""

__version__ = "0.1.0"
