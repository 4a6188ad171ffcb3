"""Tests. Run them with `make test`."""
