"""Finds the specialists: one file each in `agents/specialists`."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator, Mapping

import agents.specialists
from agents.spec import AgentSpec


class SpecInvalid(Exception):
    """A specialist's file does not keep the contract; the text says which rule."""


class SpecialistRegistry(Mapping[str, AgentSpec]):
    """The specialists by name, in sorted order: order reaches the prompt, so it must be the same in every process."""

    def __init__(self, specs: tuple[AgentSpec, ...]) -> None:
        self._specs = {spec.name: spec for spec in sorted(specs, key=lambda spec: spec.name)}

    @classmethod
    def discover(cls) -> SpecialistRegistry:
        """All of `agents/specialists/*.py`.

        Raises:
            SpecInvalid: A file has no `SPEC`, or the SPEC's name is not the file's.
        """
        specs = []
        for module in pkgutil.iter_modules(agents.specialists.__path__):
            spec = getattr(importlib.import_module(f"agents.specialists.{module.name}"), "SPEC", None)
            if not isinstance(spec, AgentSpec):
                raise SpecInvalid(f"agents/specialists/{module.name}.py must export SPEC, an AgentSpec")
            if spec.name != module.name:
                raise SpecInvalid(f"agents/specialists/{module.name}.py: SPEC.name is {spec.name!r}, it must be the file's name")
            specs.append(spec)
        return cls(tuple(specs))

    def __getitem__(self, name: str) -> AgentSpec:
        return self._specs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._specs)

    def __len__(self) -> int:
        return len(self._specs)
