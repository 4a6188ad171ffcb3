"""One attempt in parts: what goes into its row, what is checked, and whose fault a failure is. runner.py acts."""
