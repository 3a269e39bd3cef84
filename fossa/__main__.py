"""`python -m fossa`: the same as the command `fossa`."""

from fossa.cli import main

if __name__ == "__main__":
    main(prog_name="fossa")
