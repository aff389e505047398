"""A department's review of predictions: verdicts, corrections and who gave them, in a log that only grows."""
