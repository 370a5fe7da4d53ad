"""Parts of the model, and the Pyro pair that they make."""
