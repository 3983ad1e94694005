"""Deletes the backups that no rule keeps."""
