"""GPU tests and measurements in stages that can be stopped and taken up again: `python -m benchmarks.gpu_check`."""
