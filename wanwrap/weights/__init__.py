"""Weight files: which ones a preset needs, where they are, and what stands in them."""
