"""Kernels in plain C for every operator, host-built, bit-equal to reference.py: the last resort of every target.

A module holds parameters and binders of related kernels, a template the C. Templates decide nothing, so all
decisions of shape and rounding end in the parameters: which pixels are free of borders, which requantization
suffices, how far a loop is unrolled.
"""
