"""`python -m phalanx.cli`: the command line of this interpreter's installation, whatever is first on the PATH."""

from phalanx.cli import main

main()
