"""The report: rows in, one self-contained HTML page out."""
