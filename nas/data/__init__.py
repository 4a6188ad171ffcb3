"""Data sets as values: int8 arrays and labels, split for training, for the search, and for one last test.

Every loader reads a layout that people already have on disk; nothing here downloads. It knows no torch.
"""
