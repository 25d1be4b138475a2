"""Finished runs, used elsewhere: as a predictor, as one program with everything in it, as a head in other formats."""
