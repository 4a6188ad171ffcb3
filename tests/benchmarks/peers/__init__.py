"""Builds of other inference engines, from sources that the user has, for `tinyrack compare-engines`."""
