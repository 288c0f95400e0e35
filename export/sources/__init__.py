"""Files of named tensors and what lies beside them. Nothing here knows a family."""
