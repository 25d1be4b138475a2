"""A head's epochs over many devices: rows and classes divided among them, rows held in memory or streamed."""
