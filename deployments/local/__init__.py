"""The stage named local: real parts from wheels on this machine's loopback, no root, no Docker."""
