from tests.system.conftest import start_provider, start_service

__all__ = ["start_provider", "start_service"]
