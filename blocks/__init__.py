"""The outside world: one file or package per system, credentials and a thin typed client. No policy."""
