"""``python -m geodeform`` is the ``geodeform`` command."""

from geodeform.cli.main import main

main(prog_name="geodeform")
