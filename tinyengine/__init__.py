"""TinyEngine: a compiler from int8 networks to specialised C for Cortex-M.

Pure: arrays and bytes in, text out. It knows no board, no search and no cable.
"""

GENERATOR_VERSION = "0.1.0"
