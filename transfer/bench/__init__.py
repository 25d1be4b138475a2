"""`python -m transfer bench`: how fast the extractor and the heads are here, beside what others do in the same run."""
