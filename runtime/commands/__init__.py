"""Subcommands of ``flowship`` that need nothing but the runtime, one file each."""
