"""prove: takes one backup, restores it into a scratch server and compares every row."""
