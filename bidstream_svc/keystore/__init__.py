"""Keys kept fresh: fetched from an operator, checked, swapped in; with a copy on disk for the next start."""
