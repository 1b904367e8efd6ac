"""What works around Lightning, a file each, with what it mends and when it can go."""
