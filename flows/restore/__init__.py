"""restore: brings a backup back, into a new database; and, approved, swaps it in."""
