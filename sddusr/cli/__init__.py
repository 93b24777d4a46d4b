"""Command lines: typed flags, one clear line for bad input, exit codes."""
