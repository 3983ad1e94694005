"""What we do: a package per concern, and the few nouns that all concerns share."""
