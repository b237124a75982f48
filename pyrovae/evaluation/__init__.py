"""How good is a posterior, and where is the loss? A module for each measure; none is imported before it is asked for."""
