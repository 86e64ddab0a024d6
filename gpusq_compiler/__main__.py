"""``python -m gpusq_compiler`` is ``gpusq``."""

from gpusq_compiler.cli import main

if __name__ == "__main__":
    main()
