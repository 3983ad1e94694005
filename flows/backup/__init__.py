"""Takes a backup of the service's database."""
