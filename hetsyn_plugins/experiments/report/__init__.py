"""Runs and claims on one self-contained page."""
