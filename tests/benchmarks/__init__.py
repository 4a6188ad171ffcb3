"""Figures that the project answers for: each module measures some; `make figures` runs them."""
