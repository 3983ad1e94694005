"""Which backups there are and what each is worth."""
