"""Brings a commit live: gates first, checks before traffic, evidence while it bakes, undone when it is bad."""
