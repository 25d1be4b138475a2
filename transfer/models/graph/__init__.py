"""A model as a small graph in the order of its calls, and what follows from it."""
