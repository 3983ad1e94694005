"""One release of the sample service: the service as shipkeeper brings it, with this release's traits."""

import sys
from pathlib import Path

from deployments.local import service

if __name__ == "__main__":
    sys.argv += ["--traits", str(Path(__file__).with_name("traits.json"))]
    service.main()
