"""Command line of the project: python run_stereo.py --help"""

import sys

from stereo.cli import main

if __name__ == "__main__":
    sys.exit(main())
