"""Runs: training into a folder, loading from it, and what is made of a trained model."""
