"""Door to the command line from a checkout: python cli.py compile MODEL ... (see README)."""

from gpusq_compiler.cli import main

main()
