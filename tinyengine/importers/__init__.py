"""File formats in, `tinyengine.ir.Graph` out. Every quirk of a format ends here."""
