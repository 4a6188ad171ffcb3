"""The timing model without a C compiler: the same rules and the same numbers as `timing/`, a hundred times slower.

For machines on which the library cannot be built. Every constant and every rule is the C model's, whose comments
and sources count here too, and a test holds the two equal. A change of one is a change of the other.
"""
