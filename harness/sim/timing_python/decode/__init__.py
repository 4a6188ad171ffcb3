"""Thumb instructions to timing classes, file by file as `timing/decode/`."""
