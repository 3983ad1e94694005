"""`make bench`: every measurement of this folder, with its tables shown."""

import sys
from pathlib import Path

import pytest

sys.exit(pytest.main([str(Path(__file__).parent), "-q", "-s", "--timeout=3600", *sys.argv[1:]]))
