"""Small things that every part uses and that know none of them."""
