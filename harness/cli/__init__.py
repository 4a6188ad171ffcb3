"""The command line: arguments in, tables and JSON out. Everything it does can be called without it."""
