"""`python -m orchestration` is the `quorum` command."""

from orchestration.cli.main import run

if __name__ == "__main__":
    run()
