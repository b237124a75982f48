"""Picture files to pixels: one by one, by trees, and once for all into a cache."""
