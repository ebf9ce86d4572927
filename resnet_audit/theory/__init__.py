"""One file per idea: source, formula, symbols, status, then the function."""
