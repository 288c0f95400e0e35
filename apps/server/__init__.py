"""The laptop server: the web app and an HTTP API in front of the native engine."""

from .app import create_app

__all__ = ["create_app"]
