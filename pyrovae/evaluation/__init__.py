"""How good is a posterior, and where is the loss? A module for each measure, imported when asked for."""
