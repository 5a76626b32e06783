"""``python -m depproxy.cli`` is the command ``depproxy``."""

from depproxy.cli import main

main(prog_name="depproxy")
