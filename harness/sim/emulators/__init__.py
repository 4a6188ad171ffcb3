"""Boards of other simulators: QEMU and Renode as processes of ours, without a debug probe."""
