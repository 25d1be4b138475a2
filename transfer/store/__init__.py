"""Features on disk: a store that is written batch by batch, verified, and read by any later run; and feature files."""
