"""Verifies stored backups without restoring them."""
