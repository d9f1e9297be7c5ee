"""`vllm bench throughput` by its own function: the command asks for a distribution called vllm; a CPU build is none."""

from __future__ import annotations

if __name__ == "__main__":
    from vllm.benchmarks.throughput import add_cli_args, main
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = FlexibleArgumentParser()
    add_cli_args(parser)
    main(parser.parse_args())
