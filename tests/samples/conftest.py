"""The samples are tested by whole calls, so with the fixtures of the end-to-end tests."""

from __future__ import annotations

from tests.e2e.conftest import app_server, engine_factory, softphone

__all__ = ["app_server", "engine_factory", "softphone"]
