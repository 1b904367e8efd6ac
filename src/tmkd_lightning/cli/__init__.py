"""The command line ``tmkd``: `main` chooses the verb, `lightning_cli` has those that train, and each other has a file."""
