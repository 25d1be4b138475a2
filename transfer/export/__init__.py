"""Finished runs, used elsewhere: as a predictor, as one whole program, as a head in the formats of others."""
