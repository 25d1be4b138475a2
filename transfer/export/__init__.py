"""A finished run handed over: as one program with everything in it, or its head in a format of others."""
