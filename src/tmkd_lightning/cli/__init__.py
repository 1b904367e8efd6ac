"""The command line ``tmkd``: `main` chooses the verb, `lightning_cli` has those of Lightning, others a file each."""
