"""The file of settings and its profiles."""
