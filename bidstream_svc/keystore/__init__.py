"""The keys in use: periodic refresh from an operator, checks, and a cache on disk for the next start."""
