"""Model families: one readable file each, registered by the name that FlowSpec.family carries."""

from .registry import FAMILIES, Family, sniff_family

__all__ = ["FAMILIES", "Family", "sniff_family"]
