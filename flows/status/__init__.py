"""status: one page that says whether the promise is kept."""
