"""Plain torch building blocks; nothing here knows Pyro."""
