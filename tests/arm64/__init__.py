"""An aarch64 system under qemu-user, for tests of what another processor computes."""
