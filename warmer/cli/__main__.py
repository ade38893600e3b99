"""`python -m warmer.cli`: the same as the command `warmer`."""

from warmer.cli import main

main()
