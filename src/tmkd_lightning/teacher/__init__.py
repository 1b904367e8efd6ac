"""The teacher's side: a frozen network, its views fused, and what it said kept for later."""
