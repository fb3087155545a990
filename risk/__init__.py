"""The risk gate, the limits and the stops: every order passes here or does not leave."""
