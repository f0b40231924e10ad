"""Training of the bundled model on the clay world."""
