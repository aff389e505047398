"""``python -m pipeline`` is ``ocuseg``."""

from pipeline.cli import main

main()
