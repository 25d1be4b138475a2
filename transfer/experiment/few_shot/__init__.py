"""How accurate heads are with so many training images a class, over seeds, beside pixels and random weights."""
