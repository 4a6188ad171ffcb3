"""Plain C that does what the generated text does, from the same tables: for hosts, sanitizers, readers, and boards
whose results are doubted.

Each function takes the generated one's arguments and reads and writes no byte that one does not. Sums wrap, as
those of SMLAD do. `functions.py` says which is whose.
"""
