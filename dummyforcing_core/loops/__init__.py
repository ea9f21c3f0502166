"""The loops that families are sampled by, and what a clip remembers while it is made."""
