"""The run folder on disk: rows, content keys, cached arrays."""
