"""TinyNAS: a search space that fits the board, then the network in it, guided by what boards measure.

The package asks one question of hardware (measure.py) and knows no cable, no store and no board file.
"""
