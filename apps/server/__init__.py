"""The laptop server: the web app and an HTTP API in front of the native engine."""
