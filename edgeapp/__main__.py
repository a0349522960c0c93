"""`python -m edgeapp` is `edgeapp`."""

from edgeapp.cli import main

main()
