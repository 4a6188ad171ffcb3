"""The harness: builds, flashes, measures, stores and reports. State lives here only where there is a cable."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("tinyrack")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+unknown"
