"""The command line: thin commands that load settings and call one function each."""
