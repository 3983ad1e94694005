"""Going back to a release that is known to be good; and the positions that a deploy and a rollback both set."""
