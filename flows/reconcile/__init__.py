"""reconcile: settles what died, and records what the bucket has and the ledger does not."""
