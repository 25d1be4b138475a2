"""Commands: one file a verb, the table of verbs, and what all of them share."""
