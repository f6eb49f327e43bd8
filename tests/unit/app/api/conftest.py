"""Streams wait for events and beat in between: their tests run in virtual time."""

from tests.support.virtual_time import pytest_asyncio_loop_factories  # noqa: F401
