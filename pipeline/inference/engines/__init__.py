"""What can run a network in prediction: one file an engine (found by name), and the choice between them."""
