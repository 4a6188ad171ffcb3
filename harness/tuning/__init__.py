"""Ways to compute layers, measured on a board; see README.md in the folder above."""
