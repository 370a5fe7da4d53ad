"""The command line ``rvrae``."""
