"""Where backups lie: S3 or a directory, one contract. Imports no Prefect but in block.py."""
