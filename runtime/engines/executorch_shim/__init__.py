"""A small C library that runs ExecuTorch programs without torch; built on the user's machine."""
